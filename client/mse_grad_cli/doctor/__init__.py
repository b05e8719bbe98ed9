"""Diagnosis of a client and of its path to a server, for `mse-grad doctor`.

May import the SDK and the contract.
"""

from mse_grad_cli.doctor.finding import Finding, Level
from mse_grad_cli.doctor.server import examine_server
from mse_grad_cli.doctor.software import examine_software

__all__ = ["Finding", "Level", "examine_server", "examine_software"]
