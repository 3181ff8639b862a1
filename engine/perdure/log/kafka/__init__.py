"""The log of many pods: Apache Kafka, by aiokafka. `log.py` is the way in.

address.py what a URL says · client.py the library · topics.py what topics there are
lanes.py what waits · writer.py sends it · feed.py reads for all who follow · group.py which partitions are ours
snapshots.py commands.py the other topics · state.py the stores, on this pod's disk
"""

from perdure.log.kafka.address import parse
from perdure.log.kafka.log import KafkaLog

__all__ = ["KafkaLog", "parse"]
