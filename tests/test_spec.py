"""The specification ships with the package, and whatever the code cites of it is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SPEC = (ROOT / "barklite" / "SPEC.md").read_text(encoding="utf-8")
SECTIONS = set(re.findall(r"^#+ (\d+(?:\.\d+)?|Appendix [A-Z])\b", SPEC, re.MULTILINE))
DIFFERENCES = re.findall(r"^\| (D\d+) \|", SPEC, re.MULTILINE)
SECTION = r"\d+(?:\.\d+)?"
CITED = re.compile(rf"\b[Ss]pec(?:ification)? ({SECTION}(?:(?:, | and |, and ){SECTION})*)")


def cited(text: str) -> set[str]:
    """Sections, appendices and differences that comments and docstrings name."""
    text = re.sub(r"\s+#?\s*", " ", text)  # a citation may go on in the next line
    sections = {number for group in CITED.findall(text) for number in re.findall(SECTION, group)}
    appendices = {f"Appendix {letter}" for letter in re.findall(r"\bappendix ([A-Z])\b", text)}
    return sections | appendices | set(re.findall(r"(?<![+\w])D\d+\b", text))


def test_what_counts_as_a_citation():
    assert cited("(spec 4.1, D9) # spec 7 and 8.2\n  # Specification\n  # 9.1, appendix A; U+D800") == {
        "4.1", "D9", "7", "8.2", "9.1", "Appendix A",
    }  # fmt: skip


def test_every_citation_is_in_the_specification():
    files = [
        p
        for room in ("barklite", "weights_convert", "tests", "benchmarks")
        for p in (ROOT / room).rglob("*.py")
    ]
    found = {p: cited(p.read_text(encoding="utf-8")) for p in files if p != Path(__file__)}
    assert len(set().union(*found.values())) > 25
    missing = {p.name: gone for p, names in found.items() if (gone := names - SECTIONS - set(DIFFERENCES))}
    assert not missing


def test_the_differences_are_numbered_without_a_gap():
    assert [f"D{n}" for n in range(1, 38)] == DIFFERENCES
