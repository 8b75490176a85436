"""Models and inputs of the kind that readers bring: a prediction is what the model's own call gives."""

from helpers.inference import is_bayesian, posterior_moments, predict, sample_outputs

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras as keras

from tests.support.networks import Subclassed, stack

tfpl, tfd, kl = tfp.layers, tfp.distributions, keras.layers
pytestmark = pytest.mark.filterwarnings("ignore")
RNG = np.random.default_rng(0)


def sharp(model):
    """Give all posteriors random means and no width, so that every network is the model itself."""
    for variable in model.trainable_variables:
        if "untransformed_scale" in variable.name:
            variable.assign(tf.fill(variable.shape, tf.cast(-40.0, variable.dtype)))
        elif variable.name.endswith("_loc:0"):
            variable.assign(tf.random.normal(variable.shape, dtype=variable.dtype))
    return model


def of_x(function, shape=(5,)):
    """Return the functional model that `function` writes."""
    inputs = keras.Input(shape)
    return keras.Model(inputs, function(inputs))


class Halved(tfpl.DenseFlipout):
    def call(self, inputs):
        return super().call(inputs) / 2 + 1


class Compiled(keras.Model):
    """A model whose call is compiled, and so is a function that it calls."""

    def __init__(self):
        super().__init__()
        self.dense = tfpl.DenseFlipout(3)

    @tf.function
    def inner(self, inputs):
        return self.dense(inputs)

    @tf.function(input_signature=[tf.TensorSpec([None, 5])])
    def call(self, inputs):
        total = inputs
        for _ in tf.range(2):
            total = total * 0.5
        return self.inner(total)


def masked():
    dense = tfpl.DenseReparameterization(3)
    dense.supports_masking = True
    return stack((4, 2), kl.Masking(), dense, kl.GlobalAveragePooling1D())


def two_heads(inputs):
    hidden = tfpl.DenseFlipout(4, activation="relu")(inputs)
    return {"mean": tfpl.DenseFlipout(1)(hidden), "scale": kl.Dense(2, "softplus")(hidden)}


def shared(inputs):
    layer = tfpl.DenseLocalReparameterization(5, activation="tanh")
    return layer(layer(inputs)) - inputs


SHARP = {
    "leaky": lambda: of_x(lambda x: tfpl.DenseFlipout(3)(tf.nn.leaky_relu(tfpl.DenseFlipout(4)(x), alpha=0.7))),
    "operator": lambda: of_x(lambda x: 2.0 * tfpl.DenseFlipout(5, activation="relu")(x) + x),
    "heads": lambda: of_x(two_heads),
    "shared": lambda: of_x(shared),
    "own call": lambda: stack((5,), Halved(3)),
    "compiled call": Compiled,
    "masked": masked,
    "recurrent": lambda: stack((4, 2), kl.LSTM(3, return_sequences=True), kl.GRU(2), tfpl.DenseFlipout(2)),
    "recurrent dropout": lambda: stack((4, 2), kl.LSTM(3, dropout=0.5, recurrent_dropout=0.5), tfpl.DenseFlipout(2)),
    "recurrent wrapper": lambda: stack((4, 2), kl.Bidirectional(kl.GRU(3)), tfpl.DenseFlipout(2)),
    "inner": lambda: Subclassed(stack((5,), tfpl.DenseFlipout(3)), kl.LayerNormalization(), tfpl.DenseFlipout(2)),
    "float64": lambda: of_x(lambda x: tfpl.DenseFlipout(2, dtype="float64")(tf.cast(x, tf.float64))),
    "distribution": lambda: stack(
        (5,),
        tfpl.DenseFlipout(2),
        tfpl.DistributionLambda(lambda t: tfd.Normal(t, 1.0), convert_to_tensor_fn=tfd.Distribution.mean),
    ),
    "activation of the batch axis": lambda: stack(
        (5,), tfpl.DenseFlipout(3, activation=lambda t: t / (1 + tf.abs(t))), tfpl.DenseFlipout(2)
    ),
    "channels first": lambda: stack((5,), kl.Reshape((5, 1)), tfpl.Convolution1DFlipout(2, 3), kl.Flatten()),
}


@pytest.mark.parametrize("kind", SHARP)
def test_a_prediction_is_the_models_own_call(kind):
    keras.utils.set_random_seed(0)
    model = SHARP[kind]()
    shape = model.input_shape[1:] if getattr(model, "inputs", None) else (5,)
    x = RNG.normal(size=(7, *shape)).astype(np.float32)
    x[:, -1] = 0.0
    model(x)
    right = tf.nest.map_structure(lambda part: tf.convert_to_tensor(part).numpy(), sharp(model)(x))
    for budget in (512, 1e-3):
        found = sample_outputs(model, x, 3, budget_mb=budget)
        tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b[None].repeat(3, 0), atol=2e-4), found, right)
    assert tf.nest.flatten(found)[0].dtype == tf.nest.flatten(right)[0].dtype


@pytest.mark.parametrize("signature", [None, [tf.TensorSpec([None, 5])]])
@pytest.mark.parametrize("called", [False, True])
def test_a_function_within_a_model_gets_the_drawn_weights_and_forgets_them(signature, called):
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = tfpl.DenseReparameterization(3)

        @tf.function(input_signature=signature)
        def call(self, inputs):
            return self.dense(inputs)

    model, x = Model(), RNG.normal(size=(6, 5)).astype(np.float32)
    model(x) if called else model.dense.build([None, 5])
    model.dense.trainable_variables[1].assign(tf.fill([5, 3], -1.0))
    found = sample_outputs(model, x, 3, seed=1)
    np.testing.assert_allclose(found, sample_outputs(Subclassed(model.dense), x, 3, seed=1), atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.1
    loop = [model(x[:n]).numpy() for n in (6, 6, 4)]
    assert np.abs(loop[0] - loop[1]).max() > 0.1 and loop[2].shape == (4, 3)


def test_a_loaded_model_whose_draws_are_compiled_for_good_is_refused(tmp_path):
    model = stack((5,), Variational(lambda _: tf.random.normal([5, 2])))
    model.save(tmp_path / "saved", save_format="tf")
    loaded = keras.models.load_model(tmp_path / "saved", compile=False)
    with pytest.raises(TypeError, match="loaded from a SavedModel .* Build the model from its code"):
        sample_outputs(loaded, np.ones((3, 5), np.float32), 4)


def test_a_setting_that_was_changed_counts():
    model = sharp(stack((5,), tfpl.DenseFlipout(8, activation="relu"), kl.LeakyReLU(0.3), tfpl.DenseFlipout(3)))
    x = RNG.normal(size=(6, 5)).astype(np.float32)
    for layer, name, value in ((0, "activation", tf.nn.tanh), (1, "alpha", np.float32(0.9))):
        sample_outputs(model, x, 2)
        setattr(model.layers[layer], name, value)
        np.testing.assert_allclose(sample_outputs(model, x, 2)[1], model(x), atol=1e-4)


class Variational(kl.Layer):
    """A layer as tutorials write it, which draws its weights in `call`."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def build(self, shape):
        self.mean = self.add_weight("mean", [shape[-1], 2], initializer="random_normal")

    def call(self, inputs):
        self.add_loss(tf.reduce_sum(self.mean**2))
        return tf.matmul(inputs, self.mean + 0.5 * self.draw(self))


class Always(kl.Dropout):
    def call(self, inputs):
        return super().call(inputs, training=True)


def with_generator():
    layer = Variational(lambda layer: layer.generator.normal([5, 2]))
    layer.generator = tf.random.Generator.from_seed(1)
    return layer


NOISY = {
    "tf.random": lambda: Variational(lambda _: tf.random.normal([5, 2])),
    "seeded operation": lambda: Variational(lambda _: tf.random.normal([5, 2], seed=3)),
    "NumPy": lambda: Variational(lambda _: np.random.normal(size=[5, 2]).astype(np.float32)),  # noqa: NPY002
    "generator": with_generator,
    "tf.function": lambda: Variational(tf.function(lambda _: tf.random.normal([5, 2]))),
    "layer of another posterior function": lambda: tfpl.DenseFlipout(
        2, kernel_posterior_tensor_fn=lambda q: q.sample(), kernel_posterior_fn=tfpl.default_mean_field_normal_fn(
            untransformed_scale_initializer=keras.initializers.Constant(-0.4))
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", NOISY)
def test_a_layer_without_a_known_posterior_is_called_afresh_for_each_draw(kind):
    keras.utils.set_random_seed(0)
    model, x = stack((5,), NOISY[kind]()), np.ones((6, 5), np.float32)
    model(x)
    loop = np.stack([model(x) for _ in range(64)])
    before, losses, state = [v.numpy() for v in model.variables], len(model.losses), np.random.get_state()[1]  # noqa: NPY002
    found = sample_outputs(model, x, 64, seed=2)
    assert 0.7 < found.std(0).mean() / loop.std(0).mean() < 1.43 and len(np.unique(found[:, 0, 0])) == 64
    np.testing.assert_array_equal(found[:3], sample_outputs(model, x, 3, seed=2))
    assert np.abs(found[:3] - sample_outputs(model, x, 3, seed=3)).min() > 0
    if "posterior" not in kind:  # one network for all inputs, and for all blocks of them
        np.testing.assert_allclose(found[:, :1], found[:, 5:], atol=1e-5)
        np.testing.assert_allclose(found[:3], sample_outputs(model, x, 3, seed=2, budget_mb=1e-4), atol=1e-5)
    for a, b in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(model.losses) == losses and np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_dropout_that_is_always_on_and_noise_differ_between_draws():
    x = np.ones((4, 16), np.float32)
    for noisy in (lambda h: kl.Dropout(0.5)(h, training=True), Always(0.5), lambda h: kl.GaussianNoise(1.0)(h, True)):
        model = of_x(lambda h, noisy=noisy: kl.Dense(2)(noisy(h)), (16,))
        loop, found = np.stack([model(x, training=False) for _ in range(100)]), sample_outputs(model, x, 100)
        assert 0.75 < found.std(0).mean() / loop.std(0).mean() < 1.33
    assert len(sample_outputs(of_x(lambda h: kl.Dense(2)(kl.Dropout(0.5)(h)), (16,)), x, 100)) == 1


def test_states_and_statistics_are_left_as_they_were():
    recurrent = kl.LSTM(3, stateful=True)
    model = sharp(keras.Sequential([kl.InputLayer(batch_input_shape=(4, 5, 1)), recurrent, tfpl.DenseFlipout(2)]))
    x = RNG.normal(size=(10, 5, 1)).astype(np.float32)
    parts = []
    for start in (0, 4, 6):
        model.reset_states()
        parts.append(model(x[start : start + 4]).numpy())
    right = np.concatenate([parts[0], parts[1], parts[2][2:]])
    carried = [state.numpy() for state in recurrent.states]
    for _ in range(2):
        np.testing.assert_allclose(sample_outputs(model, x, 2)[1], right, atol=1e-4)
    for a, b in zip(carried, recurrent.states, strict=True):
        np.testing.assert_array_equal(a, b)
    normal = kl.BatchNormalization()
    model = sharp(of_x(lambda h: tfpl.DenseFlipout(2)(normal(h, training=True))))
    x = RNG.normal(3.0, size=(6, 5)).astype(np.float32)
    before = normal.moving_mean.numpy()
    np.testing.assert_allclose(sample_outputs(model, x, 3)[2], model(x), atol=1e-4)
    normal.moving_mean.assign(before)
    sample_outputs(model, x, 3)
    np.testing.assert_array_equal(before, normal.moving_mean)


def test_moments_of_inner_layers_of_one_name():
    block = lambda width: keras.Sequential([tfpl.DenseFlipout(width, name="bayes"), kl.Dense(4)])  # noqa: E731
    model = stack((5,), block(6), block(7))
    assert is_bayesian(model)
    moments = posterior_moments(model)
    assert {name: mean.shape for name, (mean, _) in moments.items()} == {"bayes": (5, 6), "bayes_2": (4, 7)}


X = RNG.integers(0, 9, (7, 5)).astype(np.float32)


@pytest.mark.parametrize(
    "given",
    [
        X.tolist(), [X], X.astype(np.int16), X.astype(np.float64), X.astype(np.float16), tf.constant(X),
        tf.data.Dataset.from_tensor_slices((X, X[:, 0])).batch(3), tf.data.Dataset.from_tensor_slices(X).batch(3),
    ],
)  # fmt: skip
def test_inputs_of_any_kind(given):
    import pandas as pd

    class Batches(keras.utils.Sequence):
        def __len__(self):
            return 2

        def __getitem__(self, place):
            return X[4 * place : 4 * place + 4], None

    model = sharp(stack((5,), tfpl.DenseFlipout(3)))
    subclassed = Subclassed(*model.layers)
    right = model(X).numpy()
    table = pd.DataFrame(X).astype({0: "int64", 1: object})
    for x in (given, table, Batches(), (part for part in (X[:4], X[4:]))):
        np.testing.assert_allclose(sample_outputs(model, x, 2)[1], right, atol=1e-3)
    if not isinstance(given, list):
        np.testing.assert_allclose(sample_outputs(subclassed, given, 2)[1], right, atol=1e-3)
    assert sample_outputs(model, X[:1], 2).shape == (2, 1, 3)


def test_several_inputs_as_list_tuple_dict_or_dataset():
    series, features = keras.Input((6, 1), name="series"), keras.Input((4,), name="features")
    joined = kl.Concatenate()([kl.GRU(3)(series), features])
    model = sharp(keras.Model([series, features], tfpl.DenseFlipout(2)(joined)))
    a, b = RNG.normal(size=(7, 6, 1)).astype(np.float32), RNG.normal(size=(7, 4)).astype(np.float32)
    right = model([a, b]).numpy()
    both = tf.data.Dataset.from_tensor_slices(((a, b), b)).batch(3)
    for x in ([a, b], (a, b), {"features": b, "series": a}, both):
        np.testing.assert_allclose(sample_outputs(model, x, 2)[1], right, atol=1e-4)
    with pytest.raises(ValueError, match="'features'.* missing"):
        sample_outputs(model, {"series": a})
    with pytest.raises(ValueError, match="as many examples"):
        sample_outputs(model, [a, b[:3]])


def test_batches_that_cannot_be_used_are_named():
    model = stack((5,), tfpl.DenseFlipout(3))
    with pytest.raises(ValueError, match="never ends"):
        sample_outputs(model, tf.data.Dataset.from_tensors(X).repeat())
    with pytest.raises(ValueError, match="used before"):
        sample_outputs(model, iter([]))
    with pytest.raises(ValueError, match=r"expected x \[N, 5\] .* found \[35\]"):
        sample_outputs(model, tf.data.Dataset.from_tensor_slices(X))
    with pytest.raises(TypeError, match="expected a model whose output is one tensor"):
        predict(of_x(two_heads), X)


@pytest.mark.parametrize(
    ("layers", "dtype"),
    [
        ((kl.Embedding(9, 3), kl.Flatten()), "float32"),
        ((kl.Rescaling(1 / 4), kl.Flatten()), "float32"),
        ((kl.Flatten(), kl.Lambda(lambda t: tf.cast(t, tf.float32))), "uint8"),
    ],
)
def test_uint8_that_the_model_reads_itself_is_not_scaled(layers, dtype):
    codes = RNG.integers(1, 9, (7, 4)).astype(np.uint8)
    model = sharp(keras.Sequential([kl.InputLayer((4,), dtype=dtype), *layers, tfpl.DenseFlipout(2)]))
    np.testing.assert_allclose(sample_outputs(model, codes, 2)[0], model(codes), atol=1e-3)
