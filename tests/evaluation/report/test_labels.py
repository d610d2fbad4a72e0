from cachegen.evaluation.report.canvas import drawing, new_figure
from cachegen.evaluation.report.labels import Named, write_names


def written(curves):
    with drawing("test"):
        figure = new_figure(300, 200)
        axes = figure.subplots()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        left_out = write_names(axes, curves)
        return {one.get_text(): one.get_window_extent() for one in axes.texts}, left_out


def test_names_do_not_lie_on_one_another():
    places = [(0.2, 0.5), (0.21, 0.5), (0.5, 0.5), (0.5, 0.52)]
    boxes, left_out = written([Named(f"name {i}", "s1", [place]) for i, place in enumerate(places)])
    assert left_out == ()
    shown = list(boxes.values())
    assert len(shown) == len(places)
    assert not any(one.overlaps(other) for i, one in enumerate(shown) for other in shown[:i])


def test_names_that_are_not_needed_give_way():
    crowd = [Named(f"a long name of a curve {i}", "other", [(0.5, 0.5)], False) for i in range(20)]
    boxes, left_out = written([*crowd, Named("needed", "s0", [(0.5, 0.5)])])
    assert "needed" in boxes
    assert left_out and set(boxes) | set(left_out) == {one.name for one in crowd} | {"needed"}
