"""Routing traces in the forms that people have them: one module a form, ``opening`` picks one by a file's name.

Readers yield tokens and requests; which of them count is decided where a problem imports them.
"""
