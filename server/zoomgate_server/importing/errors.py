"""Errors that prevent an import."""


class ImportFileError(Exception):
    """An error that prevents the import of a file. The message is one sentence for the operator and contains no data from the file."""


class ResultsFileError(Exception):
    """An error of a results file. The message is one sentence for the operator."""
