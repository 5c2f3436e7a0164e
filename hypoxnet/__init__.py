"""HypoxNet: from hypoxia images of head and neck tumours to a decision.

The package is a set of rooms; import what you need from the module that defines it, for example
`from hypoxnet.data.manifest import read_manifest`. Importing `hypoxnet` itself loads no torch.
"""

from importlib.metadata import version

__version__ = version("hypoxnet")
