"""The TypeScript client: what is generated is current, its types hold, and it repeats and resumes as it should."""

import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.support.node import CLIENT, ROOT, build_client, node_of, run_node

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


def test_the_packed_client_has_its_code_and_its_types(tmp_path: Path) -> None:
    node_of(CLIENT)
    clients, app = tmp_path / "clients", tmp_path / "my-app"
    app.mkdir()
    # A clone in which nothing was built yet, with what `make node` installs.
    shutil.copytree(CLIENT, clients / "typescript", ignore=shutil.ignore_patterns("dist", "node_modules"))
    (clients / "typescript/node_modules").symlink_to(CLIENT / "node_modules")
    shutil.copy(ROOT / "clients/npm", clients)
    (clients / ".venv").symlink_to(ROOT / "clients/.venv")
    [command] = re.findall(r"^\(cd clients/typescript.*$", (CLIENT / "README.md").read_text(), re.MULTILINE)
    subprocess.run(["sh", "-c", command.replace("~/my-app", str(app))], cwd=tmp_path, check=True, capture_output=True)
    [packed] = app.glob("*.tgz")
    with tarfile.open(packed) as archive:
        assert {"package/dist/index.js", "package/dist/index.d.ts", "package/README.md"} <= set(archive.getnames())


def test_requests_are_repeated_and_streams_resumed() -> None:
    build_client()
    run_node(CLIENT, "--test", "test/retrying.test.ts", "test/events.test.ts")
