"""The modules of a model: those that TensorFlow lists, and those of models that it cannot list."""

from helpers import models
from helpers.fit import fit
from helpers.layers.parts import modules_of
from helpers.runs import Run, restore_model

import numpy as np
import pytest
import tf_keras as keras

kl = keras.layers


@pytest.mark.parametrize("name", models.NAMES)
def test_the_modules_of_a_model_are_those_of_tensorflow_in_its_order(name):
    # The order decides which stream of noise a layer gets.
    model = models.build(name)
    assert [id(part) for part in modules_of(model)] == [id(part) for part in (model, *model.submodules)]


def test_a_recurrent_model_with_dropout_is_trained_kept_and_trained_again(tmp_path):
    model = keras.Sequential([kl.InputLayer((4, 2)), kl.LSTM(3, dropout=0.5, recurrent_dropout=0.5), kl.Dense(2)])
    x, y = np.random.default_rng(0).normal(size=(16, 4, 2)).astype(np.float32), np.zeros(16, np.int32)
    model(x[:2], training=True)
    kinds = [type(part).__name__ for part in modules_of(model)]
    assert {"LSTM", "LSTMCell", "Dense"} <= set(kinds) and len(kinds) == len(set(map(id, modules_of(model))))
    fit(model, x, y, epochs=1, batch_size=8, run=Run(folder=tmp_path))
    fit(model, x, y, epochs=2, batch_size=8, run=Run(folder=tmp_path, resume=True))
    last = model.get_weights()
    model.set_weights([0 * weight for weight in last])
    restore_model(model, tmp_path)
    assert all(np.array_equal(one, two) for one, two in zip(model.get_weights(), last, strict=True))
