"""What goes out together."""

from hypothesis import given
from hypothesis import strategies as st

from app.relay import BATCH_CHARACTERS, batches


@given(sizes=st.lists(st.integers(1, 2 * BATCH_CHARACTERS), max_size=20))
def test_every_message_is_in_one_batch_in_order(sizes: list[int]) -> None:
    """None is much larger than it may be, so that a slow reader shows that it reads."""
    messages = [str(number).ljust(size) for number, size in enumerate(sizes)]
    made = list(batches(messages))
    assert [message for batch in made for message in batch] == messages
    assert all(sum(map(len, batch[:-1])) < BATCH_CHARACTERS for batch in made)
    assert all(sum(map(len, batch)) >= BATCH_CHARACTERS for batch in made[:-1]), "nor smaller than it need be"
