"""The service behind Ray Serve: `ingress` for Ray's proxies, `replica` for its replicas, `application` for both.

Only `application` imports Ray.
"""
