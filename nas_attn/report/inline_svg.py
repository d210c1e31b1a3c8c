"""Turns an SVG file by matplotlib into an element for the page: themed, responsive, with unique ids and titles."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from markupsafe import Markup

from nas_attn.report.palette import LIGHT

SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"
VARIABLES = {colour: f"var(--{name})" for name, colour in LIGHT.items()}


@dataclass(frozen=True)
class View:
    """A part of a figure that the page shows as a drawing of its own.

    Args:
        group: `gid` of the matplotlib artist with the part.
        box: x, y, width and height in the SVG. Units: points.
    """

    group: str
    label: str
    box: tuple[float, float, float, float]


def inline_svg(
    svg: bytes,
    name: str,
    alt: str,
    titles: Mapping[str, Sequence[str]],
    views: Sequence[View] = (),
    aliases: Mapping[str, Sequence[str]] | None = None,
) -> list[Markup]:
    """Return a figure for the page: one `<svg>`, or one per view.

    Colours become the CSS variables of the page, so that the drawing follows its light or dark theme.

    Args:
        name: Prefix of all ids, so that several figures fit into one page.
        alt: Label of the whole figure.
        titles: For the id of a group: one title per mark in it.
        aliases: For the id of a group: further ids, each of a group around it.
    """
    root = ElementTree.fromstring(svg)
    _remove(root, f"{SVG}metadata")
    _remove(root, f"{SVG}defs", containing=f"{SVG}style")  # its rule for "*" would style the whole page
    groups = {found.get("id", ""): found for found in root.iter(f"{SVG}g")}
    for group, texts in titles.items():
        _add_titles(groups[group], texts)
    further = aliases or {}
    for group, others in further.items():
        _wrap(groups[group], others)
    kept = {*titles, *(view.group for view in views), *(other for others in further.values() for other in others)}
    _make_ids_unique(root, f"{name}-", kept)
    for element in root.iter():
        _make_plain(element)
    _flatten(root)
    _share_styles(root)
    if not views:
        return [_element(list(root), alt, root.attrib["viewBox"])]
    return [_element([groups[view.group]], view.label, " ".join(f"{x:.2f}" for x in view.box)) for view in views]


def _remove(root: Element, tag: str, containing: str | None = None) -> None:
    for child in root.findall(tag):
        if containing is None or child.find(containing) is not None:
            root.remove(child)


def _add_titles(group: Element, titles: Sequence[str]) -> None:
    """Add a title to each mark of a group: each path or use that is not a definition."""
    defined = {found for definitions in group.iter(f"{SVG}defs") for found in definitions}
    marks = [found for found in group.iter() if found.tag in (f"{SVG}use", f"{SVG}path") and found not in defined]
    for mark, title in zip(marks, titles, strict=True):
        ElementTree.SubElement(mark, "title").text = title


def _wrap(group: Element, ids: Sequence[str]) -> None:
    """Put the content of a group into one group per id, each in the one before."""
    for name in ids:
        inner = Element(f"{SVG}g", {"id": name})
        inner.extend(group)
        group[:] = [inner]


def _make_ids_unique(root: Element, prefix: str, kept: set[str]) -> None:
    """Prefix every id that is referred to or in `kept`, with the references, and drop all others."""
    referred = {found.removeprefix("#") for element in root.iter() if (found := element.get(HREF))}
    referred |= {element.get("clip-path", "")[5:-1] for element in root.iter()}
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name in referred or name in kept:
            element.set("id", f"{prefix}{name}")
        if reference := element.attrib.pop(HREF, None):
            element.set("href", f"#{prefix}{reference.removeprefix('#')}")
        if clip := element.get("clip-path"):
            element.set("clip-path", f"url(#{prefix}{clip[5:-1]})")


def _make_plain(element: Element) -> None:
    """Remove the namespace, fonts, fixed colours, further digits and blanks: the page sets or needs none of them."""
    element.tag = element.tag.removeprefix(SVG)
    if "style" in element.attrib:
        style = re.sub(r"font-family: [^;]*;? ?", "", element.attrib["style"])
        element.set("style", re.sub(r"#[0-9a-f]{6}", lambda found: VARIABLES.get(found[0], found[0]), style))
    for name in ("d", "x", "y", "transform", "width", "height"):
        if name in element.attrib:
            text = re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", element.attrib[name])
            element.set(name, " ".join(text.split()))
    if element.attrib.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    element.text = element.text if element.text and element.text.strip() else None
    element.tail = None


def _flatten(element: Element) -> None:
    """Replace every group without attributes by its children."""
    children: list[Element] = []
    for child in element:
        _flatten(child)
        children += list(child) if child.tag == "g" and not child.attrib else [child]
    element[:] = children


def _share_styles(root: Element) -> None:
    """Move a style that several marks have in common to their group, from which they inherit it."""
    for group in root.iter("g"):
        marks = group.findall("use")
        styles = {mark.get("style", "") for mark in marks}
        if len(marks) > 1 and len(styles) == 1:
            group.set("style", styles.pop())
            for mark in marks:
                mark.attrib.pop("style", None)


def _element(children: Sequence[Element], label: str, box: str) -> Markup:
    root = Element("svg", {"class": "chart", "role": "img", "aria-label": label, "viewBox": box})
    root.extend(children)
    return Markup(ElementTree.tostring(root, encoding="unicode", short_empty_elements=True))
