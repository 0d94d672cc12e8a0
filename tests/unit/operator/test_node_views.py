"""What nodes say of themselves."""

from views import at, node

from anneal_operator import nodes


def test_a_node_is_lost_after_a_while_of_not_being_ready() -> None:
    gone = node("a", ready=False, since=5)
    assert not nodes.lost(gone, at(14))
    assert nodes.lost(gone, at(15))
    assert nodes.lost_in(gone, at(7)) == 8
    assert not nodes.lost(node("a"), at(99))
    assert not nodes.lost(None, at(99))


def test_room_is_what_is_ready_whole_and_not_left_out() -> None:
    pool = [
        node("a"),
        node("b", ready=False),
        node("c", cordoned=True),
        node("d", GPUMissing="True"),
        node("e"),
    ]
    assert nodes.room(pool) == 2
    assert nodes.room(pool, ["e"]) == 1
    assert nodes.room(None) is None
