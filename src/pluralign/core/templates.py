"""What can go wrong with a Jinja template that somebody else wrote."""

import jinja2

TEMPLATE_FAULTS = (
    jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RuntimeError
)  # fmt: skip
"""What filling in a template may raise."""
