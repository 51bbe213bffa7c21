"""A journal in memory, for tests that are about something else."""

from zoomgate_server.connections.token_journal import Entry


class MemoryJournal:
    """Keeps entries until they are forgotten.

    Attributes:
        kept: What it keeps, by id.
    """

    def __init__(self) -> None:
        self.kept: dict[str, Entry] = {}

    async def append(self, entry: Entry) -> bool:
        """Keep an entry."""
        self.kept[entry.entry_id] = entry
        return True

    async def delete(self, entry_id: str) -> None:
        """Drop an entry."""
        self.kept.pop(entry_id, None)
