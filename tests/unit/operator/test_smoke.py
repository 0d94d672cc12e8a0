"""`helm test` passes where an operator works, fails where none does, and leaves nothing behind."""

from world import NAMESPACE, World

from anneal_operator import smoke


def test_an_operator_that_works_names_the_accelerator() -> None:
    world = World()
    said = smoke.check(world.server, NAMESPACE, lambda _: world.turn("FineTuneJob", smoke.NAME))
    assert smoke.ACCELERATOR in said
    assert "spec.workers.accelerator" in said
    assert world.server.names("FineTuneJob") == []
    assert not world.jobs()


def test_no_operator_no_answer() -> None:
    world = World()
    waited: list[float] = []
    assert smoke.check(world.server, NAMESPACE, waited.append) == ""
    assert sum(waited) == smoke.LOOKS * smoke.SECONDS
    assert world.server.names("FineTuneJob") == []
