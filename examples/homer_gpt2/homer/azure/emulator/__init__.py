"""A stand-in for Azure ML on this machine, for development: it is not Azure.

The real SDK talks to it over real TLS, through `HTTPS_PROXY`. A submitted command is run here
from the files that were uploaded, an output with a name is registered as a model, and a deployed
`score.py` is served. Only the loopback interface is used; every host that is not one of Azure's few
is refused and recorded, for clients that honour the proxy.
"""

from homer.azure.emulator.emulator import Emulator
from homer.azure.emulator.faults import Fault

__all__ = ["Emulator", "Fault"]
