"""What can be found out about a client, a server and the host of an NPU without computing on it; `mse-grad doctor`."""

from mse_grad_client.doctor.finding import Finding, Level
from mse_grad_client.doctor.host import Host
from mse_grad_client.doctor.npu import examine_npu
from mse_grad_client.doctor.server import examine_server
from mse_grad_client.doctor.software import examine_software

__all__ = ["Finding", "Host", "Level", "examine_npu", "examine_server", "examine_software"]
