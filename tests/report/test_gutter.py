"""The places of depth in the picture of a map."""

from __future__ import annotations

from pathlib import Path

import meristem
from meristem.report.gutter import gutter
from meristem.report.picture import draw, write_picture

from ..depth.models import net


def test_brackets_and_signs_stand_where_the_places_are(tmp_path: Path) -> None:
    model, x = net("transformer").model(), net("transformer").x()
    axes = meristem.trace(model, x)
    places = meristem.depth.places(axes)
    picture = draw(axes, places)
    rows = {row.module: row.y for row in picture.rows}
    blocks = [b for b in picture.places.brackets if b.kind == "block"]
    assert [b.hint.split(":")[0] for b in blocks] == ["layers.0", "layers.1", "layers.2"]
    for number, block in enumerate(blocks):
        inside = [module for module, y in rows.items() if block.top < y < block.bottom]
        assert inside == [module for module in rows if module.startswith(f"layers.{number}.")]
    branches = [b.hint for b in picture.places.brackets if b.kind == "branch"]
    assert len(branches) == 6
    assert "layers.2.mlp" in branches[-1]
    fitting = {way.name for way in places.insertions if way.frozen is None}
    assert fitting == {name for plus in picture.places.pluses for name in plus.hint[len("a layer fits ") :].split(", ")}
    before = next(plus for plus in picture.places.pluses if "after layers.0," in plus.hint + ",")
    assert rows["layers.0.mlp.2"] < before.y < rows["layers.1.norm1"]
    overlapping = [(a.x, a.top, a.bottom) for a in picture.places.brackets]
    assert all(x != u or bottom < v or w < top for i, (x, top, bottom) in enumerate(overlapping)
               for u, v, w in overlapping[i + 1 :])  # fmt: skip
    beside = {place.module for place in places.beside if place.frozen is None}
    beside |= {row.name for row in places.rows if row.frozen is None}
    assert beside == {bar.hint.split(" ")[3] for bar in picture.places.bars}
    (bar,) = (bar for bar in picture.places.bars if bar.hint.startswith("a branch beside layers.1.mlp.0 "))
    assert bar.hint.endswith("can be added or appended, with units beside those of layers.1.mlp.0")
    assert [module for module, y in rows.items() if bar.top < y < bar.bottom] == ["layers.1.mlp.0"]
    write_picture(tmp_path / "picture.html", "net", axes, places)
    page = (tmp_path / "picture.html").read_text()
    assert page.count('class="bracket') == len(picture.places.brackets)
    assert page.count('class="plus"') == len(picture.places.pluses)
    assert page.count('class="bar"') == len(picture.places.bars)
    bare = draw(axes)
    assert bare.places == gutter(None, [], 0, 0, 1)
    assert bare.names_x == picture.names_x - picture.places.width
