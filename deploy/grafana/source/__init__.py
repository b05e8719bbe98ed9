"""The source of the Grafana dashboards; `python -m source` in this package's parent folder writes them as JSON.

Imports nothing of the product.
"""
