"""The three networks of the "Fashion-Class-Classifier" notebook: what every study must beat."""

from __future__ import annotations

from dataclasses import dataclass

from model.config import Configuration, NetworkConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """A named network with the accuracies its author published."""

    name: str
    """Key used in a study's `baselines` list and in every table."""
    network: NetworkConfig
    """The network, layer for layer."""
    published_test_accuracy: float
    """On the 10,000 test images, one run of the notebook."""
    published_train_accuracy: float
    """On the 60,000 training images, last epoch of the same run, in training mode."""

    def configuration(self, epochs: int) -> Configuration:
        """Return the network with the notebook's recipe, trained for `epochs` epochs.

        Adam at a constant 0.001, batches of 512, no augmentation. Adam is AdamW without decay.
        """
        training = TrainingConfig(
            epochs=epochs,
            batch_size=512,
            optimizer="adamw",
            learning_rate=1e-3,
            weight_decay=0.0,
            schedule="constant",
            label_smoothing=0.0,
            flip=False,
            shift=0,
            erase=0.0,
        )
        return Configuration(network=self.network, training=training)


def _network(filters: int, dropout: float) -> NetworkConfig:
    # Conv 3x3 "valid" + ReLU, 2x2 max pooling, dropout, flatten, 32 dense units, 10 classes.
    return NetworkConfig(
        filters=(filters,),
        kernel_sizes=(3,),
        block_dropouts=(dropout,),
        convs_per_block=1,
        padding="valid",
        pooling="max",
        batch_norm=False,
        residual=False,
        head="flatten",
        dense_width=32,
        dropout=0.0,
    )


BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline(
            name="seed-32",
            network=_network(32, 0.0),
            published_test_accuracy=0.911,
            published_train_accuracy=0.9559,
        ),
        Baseline(
            name="seed-64",
            network=_network(64, 0.0),
            published_test_accuracy=0.916,
            published_train_accuracy=0.9634,
        ),
        Baseline(
            name="seed-64-dropout",
            network=_network(64, 0.25),
            published_test_accuracy=0.919,
            published_train_accuracy=0.948,
        ),
    )
}
