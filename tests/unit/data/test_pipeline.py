"""Orders, shards and batches, and the augmentation of images: the same for any number of ranks."""

import gc

from helpers import data
from helpers.data import pipeline

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

sizes = {"n": st.integers(1, 3000), "size": st.integers(1, 16), "batch_size": st.integers(1, 40)}


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 3000), size=st.integers(1, 16), seed=st.integers(0, 2**40), epoch=st.integers(0, 99))
def test_shards_are_disjoint_and_complete(n, size, seed, epoch):
    order = data.epoch_order(n, seed, epoch)
    assert order.dtype == np.int64 and np.array_equal(order, data.epoch_order(n, seed, epoch))
    shards = [data.shard(order, rank, size) for rank in range(size)]
    assert np.array_equal(np.sort(np.concatenate(shards)), np.arange(n))


@settings(max_examples=60, deadline=None)
@given(**sizes)
def test_ranks_step_together_through_what_one_rank_sees(n, size, batch_size):
    if n < size * batch_size:
        with pytest.raises(data.DataError, match="do not fill one batch"):
            data.steps_per_epoch(n, batch_size, size)
        return
    steps = data.steps_per_epoch(n, batch_size, size)
    assert steps == data.steps_per_epoch(n, batch_size * size, 1)
    order = data.epoch_order(n, 1, 2)
    whole = order[: steps * batch_size * size].reshape(steps, -1)
    for step in range(0, steps, 7):
        mine = slice(step * batch_size, (step + 1) * batch_size)
        parts = [data.shard(order, rank, size)[mine] for rank in range(size)]
        assert {len(part) for part in parts} == {batch_size}
        assert sorted(np.concatenate(parts)) == sorted(whole[step])


def test_orders_differ_between_seeds_and_epochs_and_never_change():
    orders = {data.epoch_order(100, seed, epoch).tobytes() for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25
    # A run that is resumed on another day, on another machine or with another NumPy has to find the same order.
    assert data.epoch_order(8, 3, 5).tolist() == [5, 6, 2, 1, 4, 7, 0, 3]


def labelled(n):
    x = np.random.RandomState(0).randint(0, 256, (n, 3, 3, 1)).astype(np.uint8)
    return x, np.arange(n, dtype=np.int32)


@pytest.mark.parametrize(("n", "size"), [(203, 4), (64, 1), (129, 3)])
def test_batches_of_n_ranks_are_those_of_one(n, size):
    x, y = labelled(n)
    arguments = {"seed": 7, "epoch": 3, "size": size, "batch_size": 8}
    ranks = [list(data.batches(x, y, rank=rank, **arguments)) for rank in range(size)]
    alone = list(data.batches(x, y, seed=7, epoch=3, batch_size=8 * size))
    assert {len(rank) for rank in ranks} == {len(alone)} == {n // (8 * size)}
    for step, (images, labels) in enumerate(alone):
        parts = np.concatenate([rank[step][1] for rank in ranks])
        assert sorted(parts) == sorted(labels.numpy())
        assert np.array_equal(images, data.normalise(x[labels.numpy()]))


def test_batches_have_a_static_shape_and_normalised_pixels():
    x, y = labelled(100)
    whole = data.batches(x, y, batch_size=32, seed=0, epoch=0)
    assert whole.element_spec[0] == tf.TensorSpec((32, 3, 3, 1), tf.float32)
    assert whole.element_spec[1] == tf.TensorSpec((32,), tf.int32)
    assert len(whole) == 3
    again = data.batches(tf.constant(x), tf.constant(y), batch_size=32, seed=0, epoch=0)
    for (images, labels), (same_images, same_labels) in zip(whole, again, strict=True):
        assert np.array_equal(images, same_images) and np.array_equal(labels, same_labels)


def test_normalised_pixels_are_the_same_in_arrays_and_tensors():
    assert data.normalise(np.array([0, 255], np.uint8)).tolist() == [0.0, 1.0]
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(data.normalise(every), data.normalise(tf.constant(every)))
    assert data.normalise(every).dtype == np.float32
    with pytest.raises(data.DataError, match="found float32: are they normalised already"):
        data.normalise(data.normalise(every))


def test_floats_pass_as_they_are():
    x, y = np.linspace(-5, 5, 40, dtype=np.float32)[:, None], np.linspace(0, 1, 40, dtype=np.float32)
    images, targets = next(iter(data.batches(x, y, batch_size=40, seed=0, epoch=0)))
    assert np.array_equal(np.sort(images[:, 0]), x[:, 0]) and np.array_equal(np.sort(targets), y)


@pytest.mark.parametrize("start_step", [0, 1, 5, 6])
def test_start_step_leaves_out_the_first_steps(start_step):
    x, y = labelled(100)
    arguments = {"batch_size": 8, "seed": 1, "epoch": 1, "rank": 1, "size": 2}
    whole = list(data.batches(x, y, **arguments))
    rest = list(data.batches(x, y, start_step=start_step, **arguments))
    assert len(whole) == 6 and len(rest) == 6 - start_step
    for (images, labels), (expected, expected_labels) in zip(rest, whole[start_step:], strict=True):
        assert np.array_equal(images, expected) and np.array_equal(labels, expected_labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "at least 1"),
        ({"size": 0}, "at least 1"),
        ({"rank": 2, "size": 2}, "no rank 2 of 2"),
        ({"start_step": 4}, "no step 4 in an epoch of 3"),
        ({"y": np.zeros(99)}, "same length, but they have 100 and 99"),
        ({"batch_size": 51, "size": 2}, "100 examples do not fill .* which takes 102"),
        ({"x": np.zeros((100, 7)), "augment": data.shift_and_reflect}, r"must be \[N, H, W, C\], .* shape \(100, 7\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(changes, message):
    x, y = labelled(100)
    arguments = {"x": x, "y": y, "batch_size": 32, "seed": 0, "epoch": 0, **changes}
    with pytest.raises(data.DataError, match=message):
        data.batches(**arguments)


def test_an_array_is_copied_once_and_let_go():
    x, y = labelled(1000)
    x.setflags(write=False)
    before = len(pipeline._TENSORS)
    for epoch in range(3):
        list(data.batches(x, y, batch_size=100, seed=0, epoch=epoch))
    assert len(pipeline._TENSORS) == before + 1  # y can be written to, so it is read again each time
    y[:] = -1
    assert next(iter(data.batches(x, y, batch_size=10, seed=0, epoch=0)))[1].numpy().max() == -1
    del x
    gc.collect()
    assert len(pipeline._TENSORS) == before


# Augmentation


def test_words_belong_to_an_example_and_never_change():
    words = pipeline.augmentation_words(4000, seed=3, epoch=1)
    assert words.dtype == np.int32 and words.shape == (4000, 4)
    assert np.array_equal(words[:7], pipeline.augmentation_words(7, seed=3, epoch=1))
    others = [pipeline.augmentation_words(4000, seed, epoch) for seed, epoch in ((4, 1), (3, 2), (1, 3))]
    assert all((words != other).mean() > 0.99 for other in others)
    # Each of the 31 bits of each of the four words is set in half of 4,000 examples, to within 5 standard errors.
    bits = (words[..., None] >> np.arange(31)) & 1
    assert words.min() >= 0 and np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(4000)
    # A run that is resumed elsewhere has to find the same words: the low 31 bits of what this generator yields.
    raw = np.random.MT19937(np.random.SeedSequence([3, 1, 1])).random_raw(16_000)
    assert np.array_equal(words.ravel(), raw & (2**31 - 1))


def test_each_shift_and_reflection_is_what_the_words_say():
    image = np.random.default_rng(0).integers(1, 256, (12, 10, 3), dtype=np.uint8)
    choices = [(mirrored, down, right) for mirrored in range(2) for down in range(9) for right in range(9)]
    words = np.array([(*choice, 0) for choice in choices], np.int32)
    moved = data.shift_and_reflect(np.repeat(image[None], len(choices), axis=0), words)
    assert moved.dtype == tf.uint8 and moved.shape == (162, 12, 10, 3)
    for (mirrored, down, right), found in zip(choices, moved.numpy(), strict=True):
        padded = np.pad(image[:, ::-1] if mirrored else image, [(4, 4), (4, 4), (0, 0)])
        assert np.array_equal(found, padded[down : down + 12, right : right + 10])
    assert len({found.tobytes() for found in moved.numpy()}) == 162


def test_a_shift_reaches_as_far_as_it_is_told():
    image = np.random.default_rng(0).integers(1, 256, (6, 5, 1), dtype=np.uint8)
    words = np.array([(1, down, right, 0) for down in range(3) for right in range(3)], np.int32)
    moved = data.shift(np.repeat(image[None], 9, axis=0), words, reach=1).numpy()
    padded = np.pad(image, [(1, 1), (1, 1), (0, 0)])
    for (_, down, right, _), found in zip(words, moved, strict=True):
        assert np.array_equal(found, padded[down : down + 6, right : right + 5])


def test_all_shifts_and_reflections_are_equally_frequent():
    # A lone pixel in the middle tells where its image went.
    image = np.zeros((9000, 9, 10, 1), np.float32)
    image[:, 4, 4] = 1
    moved = data.shift_and_reflect(image, pipeline.augmentation_words(9000, seed=0, epoch=0)).numpy()[..., 0]
    _, rows, columns = np.nonzero(moved)
    # Mirrored in ten columns, the pixel starts from column 5 and reaches columns 1 to 9; unmirrored, 0 to 8.
    row_counts, column_counts = np.bincount(rows, minlength=9), np.bincount(columns, minlength=10)
    chi_squared = ((row_counts - 1000) ** 2 / 1000).sum()
    chi_squared += sum((count - expected) ** 2 / expected for count, expected in zip(
        column_counts, [500, *[1000] * 8, 500], strict=True))  # fmt: skip
    assert chi_squared < 45  # 8 + 9 degrees of freedom; more in fewer than 3 of 10,000 streams


@pytest.mark.parametrize("size", [1, 2, 3])
def test_augmented_images_are_the_same_for_any_number_of_ranks(size):
    n = 24
    x, y = np.random.default_rng(0).integers(0, 256, (n, 12, 10, 3), dtype=np.uint8), np.arange(n, dtype=np.int32)
    arguments = {"seed": 3, "augment": data.shift_and_reflect}
    seen = []
    for epoch in (0, 1):
        expected = data.normalise(data.shift_and_reflect(x, pipeline.augmentation_words(n, 3, epoch))).numpy()
        ranks = [data.batches(x, y, batch_size=4, epoch=epoch, rank=r, size=size, **arguments) for r in range(size)]
        found = {
            int(label): image for rank in ranks for part in rank for label, image in zip(part[1], part[0], strict=True)
        }
        assert sorted(found) == list(range(n))
        assert all(np.array_equal(found[i], expected[i]) for i in range(n))
        seen.append(expected)
    assert not np.array_equal(*seen)
    both = list(data.batches(x, y, batch_size=8, epoch=0, epochs=2, start_step=2, **arguments))
    assert len(both) == 4
    for step, (images, labels) in enumerate(both):
        assert np.array_equal(images, seen[step > 0][labels.numpy()])


def test_any_function_augments_and_gets_the_words_of_its_examples():
    x, y = labelled(40)

    def with_words(images, words):
        assert images.dtype == tf.uint8 and words.dtype == tf.int32 and words.shape == (10, 4)
        return tf.cast(words, tf.float64)[:, None, None, :]

    for images, labels in data.batches(x, y, batch_size=10, seed=1, epoch=2, augment=with_words):
        assert np.array_equal(images[:, 0, 0], pipeline.augmentation_words(40, 1, 2)[labels.numpy()])
