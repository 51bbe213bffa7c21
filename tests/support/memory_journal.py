"""An in-memory journal for tests that do not concern the journal."""

from zoomgate_server.connections.token_journal import Entry


class MemoryJournal:
    """A journal that stores its entries in memory.

    Attributes:
        entries: Entries by ID.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    async def append(self, entry: Entry) -> bool:
        """Store an entry."""
        self.entries[entry.entry_id] = entry
        return True

    async def delete(self, entry_id: str) -> None:
        """Delete an entry."""
        self.entries.pop(entry_id, None)

    async def release(self, entry_id: str) -> None:
        """Do nothing, because no other process shares the journal."""
