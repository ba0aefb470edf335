"""Training from Kafka topics."""

from keras_rafm.data.kafka.dataset import kafka_dataset

__all__ = ["kafka_dataset"]
