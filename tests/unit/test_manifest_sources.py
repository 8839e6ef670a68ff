"""What a manifest puts into the workspace: filled in, kept apart from what is not fleet's, never overwriting."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from fleet.errors import InvalidManifest, NotAllowed
from fleet.manifests import AgentSpec
from fleet.manifests.sources import Rendered, Source, fingerprint, read_sources, render, targets, workspace_files
from fleet.terms import File

WEB = AgentSpec(name="web", labels={"role": "worker"}, folder="/nowhere")
NASTY = '"; $(touch x) `id` \'q\' \\ \n${OTHER} }, "command": "evil'


def rendered(
    source: Source,
    values: Mapping[str, str] | None = None,
    *,
    before: bytes | None = None,
    written: Mapping[str, str] | None = None,
) -> Rendered:
    return render(
        WEB,
        (source,),
        workspace="/ws",
        values=values or {},
        existing={source.target: before},
        written=written or {},
    )


def content(target: str, text: str, values: Mapping[str, str] | None = None) -> str:
    (file,) = rendered(Source(target, f"/nowhere/src_{target}", text.encode()), values).files
    return file.content.decode()


# -- which files ----------------------------------------------------------------------------------------------------


def test_siblings_go_to_the_places_they_are_named_for(tmp_path: Path) -> None:
    for name in ("src_CLAUDE.md", "src_mcp.json", "src_env", "src_notes.txt", "src_", "other.md"):
        (tmp_path / name).write_text("x")
    (tmp_path / "src_folder").mkdir()
    spec = AgentSpec(name="web", folder=str(tmp_path), files={"sub/a.txt": "other.md"})
    assert set(targets(spec)) == {"CLAUDE.md", ".mcp.json", ".env", "notes.txt", "sub/a.txt"}


def test_a_file_that_the_manifest_names_counts_more_than_a_sibling(tmp_path: Path) -> None:
    (tmp_path / "src_notes.txt").write_text("sibling")
    (tmp_path / "mine.txt").write_text("mine")
    spec = AgentSpec(name="web", folder=str(tmp_path), files={"notes.txt": "mine.txt"})
    assert [source.content for source in read_sources(spec)] == [b"mine"]


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match=r"nothing\.txt"):
        read_sources(AgentSpec(name="web", folder=str(tmp_path), files={"a": "nothing.txt"}))


# -- filling in -----------------------------------------------------------------------------------------------------


def test_variables_and_metadata_are_filled_in() -> None:
    text = "I am ${metadata.name}, a ${metadata.labels.role}, at ${HOST}. $HOST $${HOST} ${1:-x} {HOST}"
    assert content("notes.txt", text, {"HOST": "mba"}) == "I am web, a worker, at mba. $HOST ${HOST} ${1:-x} {HOST}"


def test_a_variable_that_is_not_set_is_named_with_its_place() -> None:
    source = Source("notes.txt", "/nowhere/src_notes.txt", b"one\n  ${TOKEN} ${metadata.labels.nope}\n")
    with pytest.raises(InvalidManifest) as refused:
        rendered(source)
    found = [(p["file"], p["line"], p["column"], p["message"]) for p in refused.value.facts["problems"]]
    assert found == [
        ("/nowhere/src_notes.txt", 2, 3, "${TOKEN} is not set"),
        ("/nowhere/src_notes.txt", 2, 12, "${metadata.labels.nope} is not set"),
    ]


def test_what_was_filled_in_is_not_filled_in_again() -> None:
    assert content("notes.txt", "${A}", {"A": "${B}"}) == "${B}"


def test_a_file_with_a_variable_is_readable_by_its_owner_alone() -> None:
    def mode(target: str, text: str) -> int:
        return rendered(Source(target, "x", text.encode()), {"A": "b"}).files[0].mode

    assert [mode("notes.txt", "${A}"), mode(".env", "A=1"), mode(".mcp.json", "{}")] == [0o600] * 3
    assert mode("notes.txt", "${metadata.name}") == 0o644


def test_bytes_that_are_no_text_are_carried_over_as_they_are() -> None:
    source = Source("logo.png", "x", b"\x89PNG\xff${A}")
    assert rendered(source).files[0].content == source.content


def test_a_value_in_mcp_json_is_only_ever_text_in_its_string() -> None:
    server = '{"command": "bun", "args": ["run", "${A}"], "env": {"T": "x${A}"}, "n": 1}'
    text = f'{{"mcpServers": {{"${{metadata.name}}": {server}}}}}'
    found = json.loads(content(".mcp.json", text, {"A": NASTY, "OTHER": "z"}))
    assert found == {
        "mcpServers": {"web": {"command": "bun", "args": ["run", NASTY], "env": {"T": "x" + NASTY}, "n": 1}}
    }


def test_a_leading_tilde_of_a_command_or_argument_is_the_home() -> None:
    text = '{"mcpServers": {"a": {"command": "~/bin/x", "args": ["~/y", "a~/z", "~", "~root"], "env": {"P": "~/e"}}}}'
    server = json.loads(content(".mcp.json", text, {"HOME": "/home/me"}))["mcpServers"]["a"]
    assert server == {
        "command": "/home/me/bin/x",
        "args": ["/home/me/y", "a~/z", "/home/me", "~root"],
        "env": {"P": "~/e"},
    }


def test_broken_json_is_refused_at_its_place() -> None:
    with pytest.raises(InvalidManifest, match=r"src_mcp\.json:2:3: is no valid JSON"):
        rendered(Source(".mcp.json", "/nowhere/src_mcp.json", b"{\n  oops\n}"))


def test_sourcing_the_env_file_gives_the_values_and_runs_nothing(tmp_path: Path) -> None:
    text = 'PLAIN=$((1+1))\nexport A=${A}\nB="pre ${A} post"\n# ${UNSET} in a comment\nEMPTY=${E}\n'
    path = tmp_path / ".env"
    path.write_text(content(".env", text, {"A": NASTY, "OTHER": "z", "E": ""}))
    script = 'cd "$1" && . ./.env && printf "%s\\0" "$PLAIN" "$A" "$B" "$EMPTY"'
    out = subprocess.run(["sh", "-c", script, "sh", str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert out.split("\0")[:-1] == ["2", NASTY, f"pre {NASTY} post", ""]
    assert not (tmp_path / "x").exists()


def test_a_line_of_the_env_file_that_assigns_nothing_is_not_filled_in() -> None:
    with pytest.raises(InvalidManifest, match="only after NAME="):
        rendered(Source(".env", "/nowhere/src_env", b". ${A}\n"), {"A": "x"})


# -- CLAUDE.md ------------------------------------------------------------------------------------------------------


def claude(before: bytes | None, text: str = "Be brief.\n", name: str = "web") -> bytes:
    spec = AgentSpec(name=name)
    source = Source("CLAUDE.md", "/nowhere/src_CLAUDE.md", text.encode())
    done = render(spec, (source,), workspace="/ws", values={}, existing={"CLAUDE.md": before}, written={})
    return done.files[0].content if done.files else before or b""


@pytest.mark.parametrize("own", [b"My own rules.\n", b"No newline", b"Windows\r\nends\r\n", b"  spaces  \n\n\n"])
def test_an_existing_claude_md_keeps_its_own_text(own: bytes) -> None:
    first = claude(own)
    assert first.startswith(own)
    assert b"Be brief." in first
    assert claude(first) == first
    changed = claude(first, "Be long.\n")
    assert changed.startswith(own)
    assert b"Be brief." not in changed


def test_text_after_the_block_stays_too() -> None:
    grown = claude(claude(b"Above.\n") + b"Below.\n", "Other.\n")
    assert grown.startswith(b"Above.\n")
    assert grown.endswith(b"Below.\n")
    assert grown.count(b"fleet: begin") == 1


def test_two_agents_in_one_folder_have_a_block_each() -> None:
    both = claude(claude(None), "Be second.", name="web-2")
    assert claude(both, "Be first.").count(b"fleet: begin") == 2
    assert b"Be second." in claude(both, "Be first.")


def test_a_block_whose_marks_are_broken_is_left_alone() -> None:
    broken = claude(None).replace(b"fleet: end", b"fleet: gone")
    with pytest.raises(NotAllowed, match="no pair"):
        claude(broken)


def test_a_source_cannot_pretend_to_be_a_mark() -> None:
    with pytest.raises(NotAllowed, match="mark"):
        claude(None, "<!-- fleet: end web (kept by fleet, from src_CLAUDE.md) -->")


# -- what is not fleet's --------------------------------------------------------------------------------------------


def test_a_file_that_fleet_did_not_write_is_never_overwritten() -> None:
    with pytest.raises(NotAllowed, match=r"\.mcp\.json in /ws was not written by fleet"):
        rendered(Source(".mcp.json", "x", b"{}"), before=b'{"mine": 1}')


def test_fleets_own_file_is_renewed() -> None:
    first = rendered(Source("notes.txt", "x", b"one"))
    again = rendered(Source("notes.txt", "x", b"two"), before=b"one", written=first.written)
    assert [file.content for file in again.files] == [b"two"]
    assert again.written == {"notes.txt": fingerprint(b"two")}


def test_fleets_own_file_that_a_person_changed_is_theirs() -> None:
    first = rendered(Source("notes.txt", "x", b"one"))
    with pytest.raises(NotAllowed, match="changed since"):
        rendered(Source("notes.txt", "x", b"two"), before=b"one, and mine", written=first.written)


def test_a_persons_file_that_says_the_same_stays_theirs() -> None:
    assert rendered(Source("notes.txt", "x", b"one"), before=b"one") == Rendered((), {})


def test_nothing_is_written_where_one_file_stands_in_the_way() -> None:
    sources = (Source("a", "x", b"1"), Source("b", "x", b"2"))
    with pytest.raises(NotAllowed):
        render(WEB, sources, workspace="/ws", values={}, existing={"a": None, "b": b"mine"}, written={})


# -- the whole way, on this machine ---------------------------------------------------------------------------------


async def put(spec: AgentSpec, workspace: Path, wrote: Mapping[str, str] | None = None) -> dict[str, str]:
    async def read(path: str) -> bytes | None:
        return Path(path).read_bytes() if Path(path).is_file() else None

    files, record, _ = await workspace_files(
        spec, str(workspace), environ={"A": "b", "HOME": "/nowhere"}, read=read, wrote=wrote or {}
    )
    for file in files:
        write(file)
    return record


def write(file: File) -> None:
    path = Path(file.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.content)


@pytest.fixture
def agent(tmp_path: Path) -> AgentSpec:
    folder = tmp_path / "web"
    folder.mkdir()
    return AgentSpec(name="web", folder=str(folder), source=str(folder / "web.yaml"))


async def test_a_second_start_finds_its_own_files(agent: AgentSpec, tmp_path: Path) -> None:
    (Path(agent.folder) / "src_notes.txt").write_text("${A}")
    record = await put(agent, tmp_path / "ws")
    assert await put(agent, tmp_path / "ws", record) == record
    (Path(agent.folder) / "src_notes.txt").write_text("new ${A}")
    await put(agent, tmp_path / "ws", record)
    assert (tmp_path / "ws" / "notes.txt").read_text() == "new b"


async def test_a_link_that_leads_out_of_the_workspace_is_refused(agent: AgentSpec, tmp_path: Path) -> None:
    (Path(agent.folder) / "x").write_text("x")
    (tmp_path / "ws").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "ws" / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(NotAllowed, match="out of the workspace"):
        await put(agent.model_copy(update={"files": {"sub/x": "x"}}), tmp_path / "ws")
    assert list((tmp_path / "outside").iterdir()) == []


async def test_a_skill_beside_the_manifest_is_put_where_the_program_looks(agent: AgentSpec, tmp_path: Path) -> None:
    skill = Path(agent.folder, "skills", "plots")
    skill.mkdir(parents=True)
    (skill / "SKILL.md").write_text("Use ${MATPLOTLIB}.")
    spec = AgentSpec.model_validate({**agent.model_dump(), "skills": {"required": ("plots",)}})
    record = await put(spec, tmp_path / "ws")
    assert (tmp_path / "ws/.claude/skills/plots/SKILL.md").read_text() == "Use ${MATPLOTLIB}."
    assert await put(spec, tmp_path / "ws", record) == record


async def test_a_required_skill_that_is_nowhere_is_a_warning_or_with_strict_an_error(
    agent: AgentSpec, tmp_path: Path
) -> None:
    async def read(path: str) -> bytes | None:
        return None

    for strict in (False, True):
        spec = AgentSpec.model_validate({**agent.model_dump(), "skills": {"required": ("scitex",), "strict": strict}})
        asked = workspace_files(spec, str(tmp_path), environ={"HOME": str(tmp_path)}, read=read, wrote={})
        if strict:
            with pytest.raises(InvalidManifest, match="scitex is required and is nowhere"):
                await asked
        else:
            assert (await asked)[2] == ("skills: scitex is required and is nowhere",)
