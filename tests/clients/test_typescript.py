"""The TypeScript client: what is generated is current, its types hold, and it repeats and resumes as it should."""

import json
from pathlib import Path

from tests.support.node import CLIENT, ROOT, build_client, run_node

GENERATED = CLIENT / "src/generated"
BUNDLE = ROOT / "clients/playground/client.js"


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_generated_code_is_that_of_the_description(tmp_path: Path) -> None:
    # The settings of the generator stand in a file; only the place of its output differs.
    config = tmp_path / "openapi-ts.config.mjs"
    output = tmp_path / "generated"
    config.write_text(
        f'import config from "{CLIENT / "openapi-ts.config.js"}"\n'
        f"export default {{ ...config, output: {json.dumps(str(output))} }}\n"
    )
    run_node(CLIENT, "node_modules/@hey-api/openapi-ts/bin/run.js", "--file", str(config))
    assert files(output) == files(GENERATED), "run `make client`"


def test_the_types_hold_with_the_current_typescript() -> None:
    build_client()
    run_node(CLIENT, "--run", "types")


def test_the_playground_has_the_current_client() -> None:
    assert (build_client() / "index.js").read_text() == BUNDLE.read_text(), "run `make client`"


def test_requests_are_repeated_and_streams_resumed() -> None:
    build_client()
    run_node(CLIENT, "--test", "test/retrying.test.ts", "test/events.test.ts")
