"""Serving over HTTP from a thread of this process.

``http_listener``  one ASGI application at one address; TLS beyond loopback
``local_page``     who may read a page on this machine, and send its forms

Starlette and uvicorn come with ``meninx[ocr]`` and ``meninx[federated]``, so these modules are imported
when something is served.
"""
