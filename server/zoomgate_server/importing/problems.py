"""Why nothing can be imported."""


class FileProblem(Exception):
    """A file that cannot be imported as a whole. The text is one sentence for the operator, and holds nothing of its content."""


class ResultsProblem(Exception):
    """A file of results that cannot be used. The text is one sentence for the operator."""
