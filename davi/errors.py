"""The one exception whose message is meant for the user and shown without a traceback."""


class InputError(ValueError):
    """Something the user gave cannot be used: a config, a file, a folder, a device.

    The message says what it is, where, what is allowed and what to do. Scripts print it as one
    line; from Python it is an ordinary ValueError.
    """
