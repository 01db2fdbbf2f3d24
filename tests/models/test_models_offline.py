"""Every network of MONAI is built without a connection, or refused; none starts from downloaded weights."""

from __future__ import annotations

import contextlib
import inspect
import socket
import urllib.request
from typing import Any

import pytest
import torch
from monai.networks import nets
from torch import nn

from meninx.core.errors import ConfigError
from meninx.models import registry

NETWORKS = {
    kind.__name__: kind
    for kind in vars(nets).values()
    if inspect.isclass(kind) and issubclass(kind, nn.Module)
}  # every class once, under its own name
UNET = {"channels": (2, 4), "strides": (2, 2)}
DIFFUSION = {
    "channels": (4,),
    "attention_levels": (False,),
    "norm_num_groups": 2,
    "num_res_blocks": 1,
    "num_head_channels": 4,
}
SENET = {"layers": (1, 1, 1, 1), "groups": 1, "reduction": 2}
VIT = {"img_size": (16, 16), "patch_size": (4, 4), "hidden_size": 12, "mlp_dim": 12, "num_heads": 3}
OPTIONS: dict[str, dict[str, Any]] = {
    "AttentionUnet": UNET,
    "AutoEncoder": UNET,
    "AutoencoderKL": {key: value for key, value in DIFFUSION.items() if key != "num_head_channels"},
    "Classifier": {"in_shape": (1, 16, 16), "classes": 2, **UNET},
    "ControlNet": DIFFUSION,
    "Critic": {"in_shape": (1, 16, 16), **UNET},
    "DecoderOnlyTransformer": {
        "num_tokens": 2,
        "max_seq_len": 2,
        "attn_layers_dim": 4,
        "attn_layers_depth": 1,
        "attn_layers_heads": 2,
    },
    "DiffusionModelUNet": DIFFUSION,
    "Discriminator": {"in_shape": (1, 16, 16), **UNET},
    "DynUNet": {"kernel_size": (3, 3, 3), "strides": (1, 2, 2), "upsample_kernel_size": (2, 2)},
    "EfficientNet": {"blocks_args_str": ["r1_k3_s11_e1_i32_o16_se0.25"]},
    "EfficientNetBN": {"model_name": "efficientnet-b0"},
    "EfficientNetBNFeatures": {"model_name": "efficientnet-b0"},
    "EfficientNetEncoder": {"model_name": "efficientnet-b0"},
    "FlexibleUNet": {"backbone": "resnet10", "decoder_channels": (4, 4, 4, 4, 4)},
    "FullyConnectedNet": {"hidden_channels": (2,)},
    "Generator": {"latent_shape": 2, "start_shape": (2, 4, 4), **UNET},
    "GlobalNet": {"image_size": (16, 16), "num_channel_initial": 2, "depth": 1},
    "HyenaNDUNETR": {"hyena_stages": (True, False, False, False), "feature_size": 12},
    "LocalNet": {"num_channel_initial": 2, "extract_levels": (0, 1)},
    "MaskedAutoEncoderViT": {"img_size": (16, 16), "patch_size": (8, 8)},
    "MultiScalePatchDiscriminator": {"num_d": 1, "num_layers_d": 1, "channels": 2},
    "NaViT": {
        "image_size": 16,
        "patch_size": 8,
        "hidden_size": 12,
        "mlp_dim": 12,
        "num_layers": 1,
        "num_heads": 3,
    },
    "PatchDiscriminator": {"channels": 2},
    "PatchMerging": {"dim": 4},
    "PatchMergingV2": {"dim": 4},
    "Pooler": {"hidden_size": 4},
    "RegUNet": {"num_channel_initial": 2, "depth": 1},
    "Regressor": {"in_shape": (1, 16, 16), "out_shape": (1,), **UNET},
    "ResNet": {"block": "basic", "layers": (1, 1, 1, 1), "block_inplanes": (4, 4, 4, 4)},
    "ResNetBlock": {"in_planes": 4, "planes": 4},
    "ResNetBottleneck": {"in_planes": 4, "planes": 4},
    "ResNetEncoder": {"model_name": "resnet10"},
    "ResNetFeatures": {"model_name": "resnet10"},
    "SENet": {"block": "se_resnet_bottleneck", **SENET},
    "SPADEAutoencoderKL": {"label_nc": 2, **{k: v for k, v in DIFFUSION.items() if k != "num_head_channels"}},
    "SPADEDiffusionModelUNet": {"label_nc": 2, **DIFFUSION},
    "SPADENet": {"label_nc": 2, "input_shape": (16, 16), "channels": [4, 8], "is_vae": False},
    "SegResNet": {"init_filters": 8},
    "SegResNetDS": {"init_filters": 8},
    "SegResNetVAE": {"input_image_size": (16, 16), "init_filters": 8},
    "UNETR": {"img_size": (16, 16), "hidden_size": 12, "mlp_dim": 12, "num_heads": 3, "feature_size": 2},
    "UNet": UNET,
    "VarAutoEncoder": {"in_shape": (1, 16, 16), "latent_size": 2, **UNET},
    "VarFullyConnectedNet": {"latent_size": 2, "encode_channels": (2,), "decode_channels": (2,)},
    "ViT": {"img_size": (16, 16), "patch_size": (8, 8)},
    "ViTAutoEnc": VIT,
    "VoxelMorphUNet": {
        "in_channels": 2,
        "unet_out_channels": 4,
        "channels": (4, 4),
        "final_conv_channels": (4,),
    },
}
NEED_PACKAGES = {"DAF3D", "HyenaNDUNETR", "MILModel", "TorchVisionFCModel"}  # torchvision, nvsubquadratic
NOT_ON_META = {"SwinUNETR", "TopologyConstruction", "TopologyInstance", "TopologySearch"}
REFUSED = {"Transchex"}
NEED_OBJECTS = {  # arguments that a recipe cannot hold
    "BertAttention",
    "BertMixedLayer",
    "BertOutput",
    "DiNTS",
    "MultiModal",
    "NetAdapter",
    "VISTA3D",
}


@pytest.fixture(autouse=True)
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No socket and no download; returns what was tried."""
    tried: list[str] = []

    def refuse(*arguments: object, **named: object) -> None:
        tried.append(str(arguments[:1]))
        raise AssertionError("a network tried to go online")

    for owner, name in (
        (socket.socket, "connect"),
        (socket, "create_connection"),
        (socket, "getaddrinfo"),
        (urllib.request, "urlopen"),
        (torch.hub, "load_state_dict_from_url"),
        (torch.hub, "download_url_to_file"),
    ):
        monkeypatch.setattr(owner, name, refuse)
    return tried


def built(name: str, **options: Any) -> nn.Module | None:
    """The network in 2-D or 3-D; None where these options do not suffice."""
    device = "cpu" if name in NOT_ON_META else "meta"
    for dims in (2, 3):
        with contextlib.suppress(ConfigError, RuntimeError, NotImplementedError), torch.device(device):
            shape = {"spatial_dims": dims, "in_channels": 1, "out_channels": 2}
            return registry.build(f"monai:{name}", **{**shape, **options})
    return None


COULD_DOWNLOAD = (
    "AHNet",
    "DenseNet121",
    "EfficientNetBN",
    "EfficientNetBNFeatures",
    "EfficientNetEncoder",
    "FlexibleUNet",
    "HoVerNet",
    "ResNetEncoder",
    "ResNetFeatures",
    "SEResNet50",
)


@pytest.mark.parametrize("name", COULD_DOWNLOAD)
@pytest.mark.filterwarnings("ignore")
def test_networks_that_could_download_are_built_with_random_weights(name: str, tried: list[str]) -> None:
    assert built(name, **OPTIONS.get(name, {})) is not None
    assert tried == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_network_of_monai_is_built_without_a_connection(tried: list[str]) -> None:
    left = set()
    for name in NETWORKS:
        if built(name, **OPTIONS.get(name, {})) is None:
            left.add(name)
        assert tried == [], name
    assert left == NEED_PACKAGES | REFUSED | NEED_OBJECTS


def arguments(kind: type[nn.Module]) -> set[str]:
    return registry._known_parameters(kind)


def test_every_argument_that_names_weights_is_known_here() -> None:
    """A new version of MONAI may add one: then decide whether it downloads."""
    found = {
        argument
        for kind in NETWORKS.values()
        for argument in arguments(kind)
        if any(part in argument for part in ("pretrain", "url", "weights", "download", "hub", "repo"))
    }
    harmless = {"pretrained_state_dict_key"}  # used with pretrained_url alone
    assert found == {*registry._OFFLINE, *harmless, "path_or_repo_id"}
    assert {name for name, kind in NETWORKS.items() if "path_or_repo_id" in arguments(kind)} == REFUSED


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("EfficientNetBN", {"model_name": "efficientnet-b0", "pretrained": True}),
        ("ResNetFeatures", {"model_name": "resnet18", "pretrained": True}),
        ("DenseNet121", {"pretrained": True}),
        ("MILModel", {"pretrained": True}),
        ("TorchVisionFCModel", {"weights": "DEFAULT"}),
        ("HoVerNet", {"pretrained_url": "https://example.org/w.pth"}),
        ("FlexibleUNet", {"backbone": "efficientnet-b0", "pretrained": True}),
        ("Transchex", {}),
    ],
)
def test_a_wish_to_download_is_refused_with_the_other_way(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="downloads weights"):
        registry.build(f"monai:{name}", spatial_dims=3, in_channels=1, out_channels=2, **options)


def test_off_may_be_said_aloud() -> None:
    options = {"model_name": "efficientnet-b0", "pretrained": False}
    assert built("EfficientNetBN", **options) is not None
