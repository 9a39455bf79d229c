from __future__ import annotations

from scaling_training.engine.run import Marks


def test_the_points_of_each_group_have_names_of_their_own() -> None:
    noted: dict[str, float] = {}
    marks = Marks(noted.__setitem__)
    marks("joined", 1.0)
    marks.ended()
    marks("joined", 2.0)
    marks.ended()
    marks("joined", 3.0)
    assert {name: at for name, at in noted.items() if name.startswith("joined")} == {
        "joined": 1.0,
        "joined2": 2.0,
        "joined3": 3.0,
    }
    assert [name for name in noted if name.startswith("groupEnded")] == ["groupEnded", "groupEnded2"]
