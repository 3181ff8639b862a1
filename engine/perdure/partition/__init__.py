"""The processor: the loop that owns one partition. Read, fold, perform, checkpoint."""

from perdure.partition.host import Host
from perdure.partition.ownership import Ownership
from perdure.partition.processor import Processor

__all__ = ["Host", "Ownership", "Processor"]
