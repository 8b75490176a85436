"""Figures show what they were given, and their alternative text reaches HTML."""

from helpers import metrics, plots, timeline

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbconvert import HTMLExporter


@pytest.fixture(autouse=True)
def style():
    with plt.style.context("default"):
        plots.use_style()
        yield
    plt.close("all")


@pytest.fixture
def captured():
    """What is displayed, as in a notebook; without a shell, display would print instead."""
    InteractiveShell.instance()
    with capture_output() as outputs:
        yield outputs
    InteractiveShell.clear_instance()


def texts(axes):
    legend = axes.get_legend()
    return [t.get_text() for t in legend.get_texts()] if legend else []


def test_style_is_readable_and_has_no_twice_used_colour():
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    assert len(set(colours)) == len(colours) >= 6
    assert plt.rcParams["figure.facecolor"] == plt.rcParams["axes.facecolor"] == "white"
    assert min(plt.rcParams[k] for k in ("font.size", "xtick.labelsize", "legend.fontsize")) >= 9


def distances(colours, seen):
    """Least distance in CIELAB (CIE 1976) between any two colours, by an observer whose matrix is `seen`."""
    srgb = np.array([matplotlib.colors.to_rgb(c) for c in colours])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.transpose(seen), 0, 1)
    xyz = linear @ np.transpose([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.moveaxis(np.cbrt(np.maximum(xyz / [0.9505, 1, 1.089], 0.008856)), -1, 0)
    lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
    between = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return between[np.triu_indices(len(colours), 1)].min()


# Severity 1.0 in table 1 of Machado, Oliveira and Fernandes (2009), doi:10.1109/TVCG.2009.113.
OBSERVERS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("observer", OBSERVERS)
def test_colours_can_be_told_apart_without_one_kind_of_cone(observer):
    """Two of Matplotlib's own first seven colours differ by less than 8 with protanopia and with deuteranopia."""
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    assert distances(colours, OBSERVERS[observer]) > 15


def figure(heading="A line rises", **size):
    fig, ax = plt.subplots(**size)
    ax.plot([0, 1])
    ax.set_title(heading)
    return fig


def test_show_keeps_the_alternative_text_and_the_title_and_closes_the_figure(captured):
    fig = figure("The error\nfalls", figsize=(5, 2))
    plots.show(fig, "A line\n  that <rises>")
    assert not plt.fignum_exists(fig.number)
    output = captured.outputs[0]
    assert output.data["text/plain"] == "A line that <rises>"
    assert output.metadata["image/png"] == {
        "alt": "A line that <rises>",
        "title": "The error falls",
        "width": 480,
        "needs_background": "light",
    }
    shown = nbformat.v4.new_output("display_data", data=output.data, metadata=output.metadata)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[shown])])
    page, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook)
    assert 'alt="A line that &lt;rises&gt;"' in page


def test_show_refuses_a_figure_without_alternative_text_or_title(captured):
    with pytest.raises(ValueError, match="alternative text"):
        plots.show(figure(), " ")
    with pytest.raises(ValueError, match="needs a title"):
        plots.show(figure(" "), "A line that rises")
    assert not captured.outputs


def test_a_title_is_that_of_the_figure_or_the_first_of_its_panels():
    fig, axes = plt.subplots(1, 2)
    assert plots.title(fig) == ""
    axes[0].inset_axes([0, 1, 1, 0.2]).set_title("within", loc="right")
    assert plots.title(fig) == "within"
    axes[1].set_title("second", loc="center")
    assert plots.title(fig) == "second"
    fig.suptitle("all")
    assert plots.title(fig) == "all"


def test_vector_copies_are_kept_where_the_environment_says_and_nowhere_else(captured, monkeypatch, tmp_path):
    monkeypatch.delenv("BNN_FIGURES_DIR", raising=False)
    monkeypatch.setattr("helpers.plots.display.ROOT", tmp_path)
    plots.show(figure(), "A line that rises")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("BNN_FIGURES_DIR", "build/figures")
    for _ in range(2):
        plots.show(figure("Coverage: 95 %"), "A line that rises")
    copies = sorted(path.name for path in (tmp_path / "build" / "figures").iterdir())
    assert copies == ["coverage-95-2.svg", "coverage-95.svg"]
    assert "<svg" in (tmp_path / "build" / "figures" / copies[0]).read_text()


def test_table_escapes_and_formats(captured):
    plots.table([{"model": "a<b", "NLL": 0.123456}, {"model": "twin", "NLL": 2}], caption="stand-in data")
    data = captured.outputs[0].data
    assert "<td>a&lt;b</td><td>0.1235</td>" in data["text/html"]
    assert "stand-in data</div></caption>" in data["text/html"]
    assert data["text/plain"].splitlines() == ["model  NLL", "a<b    0.1235", "twin   2", "stand-in data"]


def test_learning_curves_draw_each_key_of_each_history():
    epochs = [{"epoch": e, "loss": 1 / e, "kl_weight": e} for e in (1, 2, 3)]
    axes = plots.learning_curves({"BNN": epochs, "CNN": epochs}, keys=("loss", "kl_weight"))
    assert [ax.get_ylabel() for ax in axes] == ["loss", "kl weight"]
    assert axes[0].lines[1].get_ydata() == pytest.approx([1, 1 / 2, 1 / 3])
    assert texts(axes[0]) == ["BNN", "CNN"]


def test_weight_posteriors_have_a_row_a_layer_and_a_curve_a_moment():
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.1, (30, 20)), rng.uniform(0.05, 2, (30, 20))
    layers = {"dense": weights, "logits": weights}
    axes = plots.weight_posteriors({"start": layers, "end": layers})
    assert axes.shape == (2, 2)
    assert "logits" in axes[1, 0].get_title(loc="left")
    curves = axes[0, 1].patches
    assert len(curves) == 2
    heights, edges, _ = curves[0].get_data()
    assert heights.max() == 1
    assert edges[0] < layers["dense"][1].min() and edges[-1] > layers["dense"][1].max()


def test_reliability_draws_the_curve_and_prints_the_error():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 500)
    y = rng.integers(0, 3, 500)
    ax = plots.reliability(p, y, "BNN")
    confidence, accuracy, count = metrics.calibration_curve(p, y)
    drawn = next(line for line in ax.lines if line.get_marker() == "o")
    assert drawn.get_ydata() == pytest.approx(accuracy[count > 0])
    sizes = ax.child_axes[0]
    assert [bar.get_height() for bar in sizes.patches] == count.tolist()
    assert sizes.get_title(loc="left") == f"BNN  ECE {metrics.ece(p, y):.3f}"


def test_images_and_predictive_density_fill_their_grids():
    x = np.random.default_rng(0).random((5, 8, 8, 1))
    axes = plots.images(x, titles=list("abcde"), columns=4)
    assert axes.shape == (2, 4)
    assert sum(len(ax.images) for ax in axes.flat) == 5
    assert axes[1, 0].get_title() == "e"
    probability = np.full((30, 5), 0.25)
    axes = plots.predictive_density(x, probability, range(5), reference=np.full(5, 0.75))
    assert axes.shape == (3, 4)
    assert [line.get_xdata()[0] for line in axes[0, 1].lines] == [0.25, 0.75]
    assert not axes[2, 3].axison


def test_entropy_histograms_are_shares_that_sum_to_one():
    ax = plots.entropy_histograms({"in": np.zeros(10), "out": np.linspace(0, 2, 300)})
    shares = [p.get_data().values.sum() for p in ax.patches]
    assert shares == pytest.approx([1] * 4)
    assert texts(ax) == ["in", "out"]


def test_accuracy_vs_retained_is_in_percent_and_leaves_out_the_last_few():
    retained = np.arange(1, 101) / 100
    ax = plots.accuracy_vs_retained({"BNN": (retained, 1 - retained / 10)})
    x, y = ax.lines[0].get_data()
    assert (x[0], x[-1]) == pytest.approx((98, 0))
    assert y[-1] == pytest.approx(90)


def test_speedup_divides_by_the_first_entry_and_marks_shared_cores():
    seconds = np.array([[8.0, 8.0], [4.0, 4.0], [2.5, 2.5]])
    axes = plots.speedup([1, 2, 4], seconds, "BNN", cores=2)
    axes = plots.speedup([1, 2, 4], 2 * seconds, "CNN", cores=2, axes=axes)
    assert sorted(texts(axes[1])) == ["BNN", "CNN", "ideal"]
    assert axes[1].lines[0].get_ydata() == pytest.approx([1, 2, 3.2])
    hollow = [line for line in axes[1].lines if line.get_markerfacecolor() == "white"]
    assert [line.get_xdata().tolist() for line in hollow] == [[4], [4]]


def test_the_phases_of_steps_are_drawn_where_they_happen():
    long = [timeline.Phase("compute", 1.0, 1.004), timeline.Phase("all-reduce", 1.004, 1.01)]
    short = [timeline.Phase("compute", 5.0, 5.004), timeline.Phase("copy in", 5.004, 5.0041)]
    ax = plots.step_phases({"5 ms": long, "1 ms": short})
    bars = [(round(p.get_x(), 6), round(p.get_width(), 6)) for p in ax.patches]
    assert bars == [(0, 4), (4, 6), (0, 4), (4, 0.1)]
    assert [t.get_text() for t in ax.texts] == ["compute", "all-reduce", "compute"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["5 ms", "1 ms"]
    assert [t.get_text() for t in ax.figure.legends[0].get_texts()] == ["compute", "copy in", "all-reduce"]
