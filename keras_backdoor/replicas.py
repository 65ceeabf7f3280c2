"""What replicas compute together: trainings, steps of custom loops, and rows that are computed one by one.

In a training (`copied`), each replica computes a part of every batch. Batches and their order are those of one device, the loss
is that of the whole batch, and so are the statistics of batch normalisation. What differs is the order in which floats are
summed, and the masks of dropout, which every replica draws from a stream of its own. Of rows (`by_rows`), each computes a part.

TensorFlow is imported when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from keras_backdoor.distribution import FLOAT32, Setup, active

if TYPE_CHECKING:
    import tensorflow as tf
    from tensorflow import keras


@contextmanager
def copied(model: keras.Model) -> Iterator[keras.Model]:
    """What to train in place of `model`: a copy that is spread over the replicas and computes in the precision in use.

    After the block the copy's weights are put back. It is `model` itself if there is nothing to spread; if it was made in the
    strategy's scope; or if it cannot be copied, because it has layers or steps of its own: that is trained on one device.

    Batch normalisation of the copy has the statistics of the whole batch. Its running variances are those of the batches, without
    the factor n / (n - 1) that Keras's fused kernel applies on one device.
    """
    setup = active()
    if (setup.replicas == 1 and setup.precision == FLOAT32) or not _copyable(model):
        yield model
        return
    copy = _copy(setup, model)
    try:
        yield copy
    finally:
        model.set_weights(copy.get_weights())


def _copy(setup: Setup, model: keras.Model) -> keras.Model:
    from tensorflow import keras

    with setup.scope():
        copy = keras.models.clone_model(model, clone_function=partial(_copy_layer, setup, model))
        copy.set_weights(model.get_weights())
    return copy


def _copyable(model: keras.Model) -> bool:
    """Whether `keras.Model` takes its steps, and all its layers say how they are made; none of them is a network itself."""
    from keras.src.engine.functional import Functional

    if not isinstance(model, Functional) or any(isinstance(layer, Functional) for layer in model.layers):
        return False
    try:
        for layer in model.layers:
            layer.get_config()
    except NotImplementedError:
        return False
    return True


def _copy_layer(setup: Setup, model: keras.Model, layer: keras.layers.Layer) -> keras.layers.Layer:
    """The same layer, for `_copy`; one that gives an output of the model computes in float32, as losses need it."""
    from tensorflow import keras

    config = layer.get_config()
    given = [name for name in config if name.endswith(("_constraint", "_regularizer")) and hasattr(layer, name)]
    config.update({name: getattr(layer, name) for name in given})  # objects, which need not say how they are made
    if layer.name not in model.output_names:
        config["dtype"] = setup.precision
    if setup.replicas > 1 and isinstance(layer, keras.layers.BatchNormalization):
        config["synchronized"] = True
    return type(layer).from_config(config)


def is_spread(model: keras.Model) -> bool:
    """Whether the network was made to be trained on several replicas."""
    setup = active()
    return setup.replicas > 1 and model.distribute_strategy is setup.strategy


NOBODY = -1
"""The label of an image that is there only because every replica needs one, as parts without images break some kernels."""


def of_whole_batch(loss: Any, batch_size: int) -> Any:
    """A loss of labels and probabilities as a replica computes it: that of the whole batch, which all of them gather.

    So it may be any function of a batch, and a last batch need not have as many images for every replica.
    """
    import tensorflow as tf
    from tensorflow import keras

    function, most = keras.losses.get(loss), -(-batch_size // active().replicas)

    def gather(values: tf.Tensor) -> tf.Tensor:
        padding = [[0, most - tf.shape(values)[0]], *([0, 0] for _ in values.shape[1:])]  # collectives want one shape
        filled = tf.ensure_shape(tf.pad(values, padding), (most, *values.shape[1:]))
        return tf.distribute.get_replica_context().all_gather(filled, 0)

    def whole(labels: tf.Tensor, probabilities: tf.Tensor) -> tf.Tensor:
        numbers = gather(labels - NOBODY)  # 0 is nobody or padding
        counted = tf.reshape(numbers, [-1]) > 0
        logits = getattr(probabilities, "_keras_logits", None)  # cross-entropy is computed from what softmax was given
        answers = gather(probabilities)[counted] if logits is None else tf.nn.softmax(gather(logits)[counted])
        return function(numbers[counted] + NOBODY, answers)

    return whole


def accuracy() -> keras.metrics.Metric:
    """The accuracy on all images of all replicas."""
    import tensorflow as tf
    from tensorflow import keras

    class Accuracy(keras.metrics.SparseCategoricalAccuracy):
        def update_state(self, labels: tf.Tensor, probabilities: tf.Tensor, sample_weight: Any = None) -> Any:
            return super().update_state(labels, probabilities, tf.reshape(labels, [-1]) != NOBODY)

    return Accuracy(name="accuracy")


def mean_of_whole_batch(values: tf.Tensor) -> tf.Tensor:
    """The mean of values (B, ...), B the images of this replica's part, over the whole batch."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return tf.reduce_mean(values)
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(values))
    return total / context.all_reduce(tf.distribute.ReduceOp.SUM, tf.cast(tf.size(values), values.dtype))


# --- custom loops ---------------------------------------------------------------------------------------------------------


def on_all(setup: Setup, function: Callable[..., Any], input_signature: Any = None) -> Callable[..., Any]:
    """A graph in which every replica of `setup` computes `function` of the same arguments; it gives what the first one gives.

    In `function` the replicas part (`part`) and come together (`gathered`, `averaged`). On one device, these change nothing.
    """
    import tensorflow as tf

    strategy = setup.strategy
    if strategy is None or setup.replicas == 1:
        return tf.function(function, input_signature=input_signature)

    @tf.function(input_signature=input_signature)
    def everywhere(*arguments: Any) -> Any:
        return strategy.experimental_local_results(strategy.run(function, arguments))[0]

    return everywhere


def part(values: tf.Tensor) -> tf.Tensor:
    """This replica's part of values (B, ...), B a multiple of the number of replicas."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return values
    size = tf.shape(values)[0] // context.num_replicas_in_sync
    start = context.replica_id_in_sync_group * size
    return values[start : start + size]


def gathered(values: tf.Tensor) -> tf.Tensor:
    """The parts of all replicas, one after the other."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return values
    if values.dtype == tf.bool:  # which collectives do not know
        return tf.cast(context.all_gather(tf.cast(values, tf.int32), 0), tf.bool)
    return context.all_gather(values, 0)


def averaged(values: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """Means over all replicas, such as of the gradients of the mean loss of a part."""
    import tensorflow as tf

    context = tf.distribute.get_replica_context()
    return values if context.num_replicas_in_sync == 1 else context.all_reduce(tf.distribute.ReduceOp.MEAN, values)


def by_rows(function: Callable[..., Any], input_signature: Sequence[Any]) -> Callable[..., Any]:
    """A graph of `function`, whose rows the replicas in use share, as they do a batch.

    function: from any structure of tensors (R, ...), and more arguments, which all replicas need whole, to any structure of
    tensors (R, ...), of which each row depends on its own alone. It should use a model that is `replicated`.
    """
    import tensorflow as tf

    setup = active()

    def some(rows: Any, *whole: Any) -> Any:
        count = tf.shape(tf.nest.flatten(rows)[0])[0]
        size = -(-count // setup.replicas)
        # As many for each replica: the last row is there several times, and only once in the end.
        places = part(tf.minimum(tf.range(size * setup.replicas), count - 1))
        found = function(tf.nest.map_structure(lambda one: tf.gather(one, places), rows), *whole)
        return tf.nest.map_structure(lambda one: gathered(one)[:count], found)

    return on_all(setup, function if setup.replicas == 1 else some, input_signature)


def replicated(model: keras.Model) -> keras.Model:
    """A copy of the network that every replica has at hand; itself on one device, or if it cannot be copied (`copied`)."""
    setup = active()
    return _copy(replace(setup, precision=FLOAT32), model) if setup.replicas > 1 and _copyable(model) else model
