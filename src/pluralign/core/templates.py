"""The exceptions of filling in a Jinja template that a user gave."""

import jinja2

TEMPLATE_FAULTS = (
    jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RuntimeError
)  # fmt: skip
"""What filling in such a template may raise."""
