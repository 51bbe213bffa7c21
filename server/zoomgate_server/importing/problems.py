"""Errors that prevent an import."""


class FileProblem(Exception):
    """A file that cannot be imported at all. The message is one sentence for the operator and contains no data from the file."""


class ResultsProblem(Exception):
    """A results file that cannot be used. The message is one sentence for the operator."""
