"""Pages in the frame and the style of the evaluation's report: HTML without scripts that needs no network."""

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render_page(package: str, template: str, **values: Any) -> bytes:
    """Return a template of a package as UTF-8. All values are escaped, since names of files and classes can be markup.

    Args:
        package: Package with a folder `templates`.
        template: File in it; it may extend `base.html` and import `charts.html` of the report.
        **values: What the template shows.
    """
    loader = ChoiceLoader([PackageLoader(package), PackageLoader("franca.evaluation.report_page")])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values).encode()
