"""Serving over HTTP from a thread of this process.

``listener``    one ASGI application at one address; TLS beyond loopback
``local_page``  who may read a page on this machine, and send its forms

Starlette and uvicorn come with ``meninx[review]`` and ``meninx[federated]``, so these modules are imported
when something is served.
"""
