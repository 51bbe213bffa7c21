"""Errors that prevent an import."""


class ImportFileError(Exception):
    """A file that cannot be imported at all. The message is one sentence for the operator and contains no data from the file."""


class ResultsFileError(Exception):
    """A results file that cannot be used. The message is one sentence for the operator."""
