"""The images and the compose files."""

import json
import re
import shutil
import subprocess
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import compose
import jsonschema
import pytest
from common import DEPLOY, PORT, ROLES, ROOT, images, in_venv, load, program_commands, program_variables, run, settings_schema
from generate import leaves

COMPOSE = DEPLOY / "compose.yaml"
GPU = DEPLOY / "compose.gpu.yaml"


def dockerfile():
    return (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def settings():
    """The file that the compose file mounts."""
    return tomllib.loads((DEPLOY / "echogen.toml").read_text(encoding="utf-8"))


def environment(service):
    return {name: str(value) for name, value in service.get("environment", {}).items()}


def test_hadolint_finds_nothing_wrong():
    run(in_venv("hadolint"), "--failure-threshold", "style", DEPLOY / "Dockerfile")


def test_base_images_are_pinned():
    bases = re.findall(r"^ARG (\w+_IMAGE)=(.+)$", dockerfile(), re.MULTILINE)
    assert len(bases) == 4
    for _, image in bases:
        assert re.search(r":.*\d+\.\d+", image) and "latest" not in image
    froms = re.findall(r"^FROM (\S+)", dockerfile(), re.MULTILINE)
    stages = set(re.findall(r" AS (\w[\w-]*)$", dockerfile(), re.MULTILINE))
    assert all(source.startswith("${") or source in stages for source in froms)


def test_the_image_is_built_with_the_compiler_that_the_project_names():
    rust = re.search(r'^rust-version = "([\d.]+)"', (ROOT / "Cargo.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert f"ARG RUST_IMAGE=rust:{rust}." in dockerfile()
    assert set(re.findall(r"RUSTUP_TOOLCHAIN=([\d.]+)", dockerfile())) == {f"{rust}.0"}


def test_the_images_contain_only_the_program():
    built = re.findall(r"cargo build (.*?) *\\?\n", dockerfile())
    assert len(built) == 2
    assert all("--package echogen-cli --bin echogen" in options for options in built)
    assert set(re.findall(r"COPY --from=build-\w+ (/out/\S+)", dockerfile())) == {"/out/echogen"}


def test_both_variants_run_unprivileged_and_have_a_health_check():
    for variant in ("cuda", "cpu"):
        stage = re.search(rf"^FROM \S+ AS {variant}$(.*?)(?=^FROM |\Z)", dockerfile(), re.MULTILINE | re.DOTALL)[1]
        assert "\nUSER 65532:65532\n" in stage and f"\nEXPOSE {PORT}\n" in stage
        assert "HEALTHCHECK" in stage and 'ENTRYPOINT ["/opt/echogen/echogen"]' in stage
        assert "COPY bundles " in stage


def test_the_context_has_what_the_image_is_built_from():
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:].rstrip("/") for line in ignore if line.startswith("!")}
    of_demo = {"examples/jobs.jsonl", "examples/subjects"}
    assert kept == {"Cargo.toml", "Cargo.lock", "crates", "tests", "bundles", "deploy/healthcheck"} | of_demo
    # What the sources of the program include has to be in the context, too; the tests' includes need not.
    for name in kept:
        assert (ROOT / name).exists()


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802 -- the library's name
        self.send_response(200 if self.path == "/readyz" else 503)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_the_health_check_tells_ready_from_not():
    server = HTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    check = [shutil.which("bash"), DEPLOY / "healthcheck"]
    listen = {"ECHOGEN_TELEMETRY_LISTEN": f"0.0.0.0:{server.server_port}"}
    assert subprocess.run(check, env=listen, check=False).returncode == 0
    assert subprocess.run([*check, "/livez"], env=listen, check=False).returncode == 1
    server.shutdown()
    server.server_close()
    assert subprocess.run(check, env=listen, check=False, stderr=subprocess.DEVNULL).returncode == 1


@pytest.mark.parametrize("path", [COMPOSE, GPU], ids=lambda path: path.name)
def test_compose_files_keep_to_their_schema(path):
    run(in_venv("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", path)


def test_every_server_is_there():
    services = load(COMPOSE)["services"]
    assert {"rabbitmq", "redis", "s3", "prometheus", "grafana"} <= set(services)
    for name in (*ROLES, "canary"):
        assert services[name]["command"][0] == name


def test_services_run_what_the_program_can():
    for name, service in load(COMPOSE)["services"].items():
        if "build" not in service:
            continue
        assert service.get("command", ["schema"])[0] in program_commands()
        own = {each for each in environment(service) if each.startswith(("ECHOGEN_", "HF_"))}
        assert own <= program_variables(), name
        assert f"./echogen.toml:{environment(service)['ECHOGEN_CONFIG']}:ro" in service["volumes"]
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"] and service["user"] == "65532:65532"


def test_the_mounted_file_is_one_that_the_program_reads():
    jsonschema.Draft202012Validator(settings_schema()).validate(settings())
    every = {"_".join(["ECHOGEN", *path]).upper(): each for path, each in leaves(settings_schema())}
    secrets = {name for name, each in every.items() if each.get("writeOnly")}
    given = {"_".join(["ECHOGEN", *path]).upper() for path in paths(settings())}
    assert not given & secrets, "secrets are passed by the environment"
    # What is no secret is in the file, so that there is one place for it. The GPU is what compose.gpu.yaml adds.
    for name, service in load(COMPOSE)["services"].items():
        own = {each for each in environment(service) if each.startswith("ECHOGEN_")}
        # Lines of roles are for Loki, those of commands for people.
        of_people = {"ECHOGEN_TELEMETRY_LOG_FORMAT"} if "tools" in service.get("profiles", []) else set()
        assert own <= secrets | of_people | {"ECHOGEN_CONFIG"}, name


def paths(table, path=()):
    for name, each in table.items():
        if isinstance(each, dict):
            yield from paths(each, (*path, name))
        else:
            yield (*path, name)


def test_roles_are_given_the_time_that_they_need():
    for name in ROLES:
        service = load(COMPOSE)["services"][name]
        assert int(service["stop_grace_period"].removesuffix("s")) > settings()["worker"]["grace_seconds"] + 10


def test_images_of_servers_are_pinned_and_listen_on_this_machine_only():
    composed = load(COMPOSE)
    for image in images(composed):
        assert image.startswith("${ECHOGEN_IMAGE") or re.search(r":v?\d+\.\d+(\.\d+)?(-\w+)?$", image), image
    for service in composed["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_servers_are_waited_for_until_they_are_healthy():
    services = load(COMPOSE)["services"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            ours = "build" in services[needed]
            if how["condition"] == "service_healthy":
                assert ours or "healthcheck" in services[needed], f"{name} waits for {needed}, which has no health check"
    # That of the roles is in the image, and connects to this port.
    assert settings()["telemetry"]["listen"] == f"0.0.0.0:{PORT}"


def test_every_variable_is_made():
    example = compose.read_secrets(DEPLOY / ".env.example")
    text = COMPOSE.read_text(encoding="utf-8")
    required = set(re.findall(r"\$\{(\w+):\?", text))
    optional = set(re.findall(r"\$\{(\w+):-", text))
    assert required <= set(example) and set(example) <= required | optional
    assert "/deploy/.env\n" in (ROOT / ".gitignore").read_text(encoding="utf-8")


def test_secrets_are_made_once_and_each_is_another(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        for name in ("secrets.sh", ".env.example"):
            shutil.copy(DEPLOY / name, folder)
        run("sh", folder / "secrets.sh")
        assert (folder / ".env").stat().st_mode & 0o77 == 0, "others can read it"
    made, other = compose.read_secrets(first / ".env"), compose.read_secrets(second / ".env")
    fixed = {"RABBITMQ_USER", "S3_ACCESS_KEY_ID", "ECHOGEN_MODEL_HUB_TOKEN"}
    assert all(made[name] != other[name] and len(made[name]) > 40 for name in set(made) - fixed)
    assert re.fullmatch(r"eg_[A-Za-z0-9]{8}_[A-Za-z0-9_-]{43}", made["ECHOGEN_GATEWAY_KEY"])
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", made["ECHOGEN_CALLBACKS_SECRET"])
    run("sh", first / "secrets.sh")
    assert compose.read_secrets(first / ".env") == made, "a file that exists is kept"


def test_no_secret_becomes_part_of_anything():
    # In an address, a file or a command line, some characters would end the secret or have to be written otherwise.
    secrets = {"RABBITMQ_USER", "RABBITMQ_PASSWORD", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", "GRAFANA_PASSWORD"}
    found = set()

    def look(name, value):
        if isinstance(value, dict):
            for key, each in value.items():
                look(key, each)
        elif isinstance(value, list):
            for each in value:
                look(None, each)
        elif isinstance(value, str):
            for secret in re.findall(r"\$\{(\w+)", value):
                found.add(secret)
                assert secret not in secrets or re.fullmatch(r"\$\{\w+:\?[^}]*\}", value), f"{name}: {value}"

    look(None, load(COMPOSE))
    assert secrets <= found


def test_every_special_character_arrives(tmp_path):
    made = compose.made_secrets(tmp_path)
    given = compose.services(made)["dispatcher"]["environment"]
    assert given["ECHOGEN_BROKER_PASSWORD"] == made["RABBITMQ_PASSWORD"] and compose.SPECIAL in made["RABBITMQ_PASSWORD"]
    assert given["ECHOGEN_STORE_SECRET_ACCESS_KEY"] == made["S3_SECRET_ACCESS_KEY"]
    with pytest.raises(KeyError, match="secrets.sh"):
        compose.services(made | {"RABBITMQ_USER": ""})


def test_clients_on_this_machine_reach_what_addresses_of_pictures_name():
    public = settings()["store"]["public_endpoint"]
    assert f"{public.removeprefix('http://')}:8333" in load(COMPOSE)["services"]["s3"]["ports"]


def test_every_role_has_a_health_check_whatever_the_image_keeps():
    # Images in OCI's format have none.
    command = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", dockerfile(), re.MULTILINE)[1]
    for name, service in load(COMPOSE)["services"].items():
        if "build" in service:
            off = service["healthcheck"].get("disable")
            assert off == (True if "tools" in service.get("profiles", []) else None), name
            assert off or service["healthcheck"]["test"] == ["CMD", *json.loads(command)], name


def test_no_role_takes_all_cores_of_a_large_machine():
    assert settings()["model"]["threads"] <= 4


def test_volumes_and_files_that_are_mounted_are_there():
    composed = load(COMPOSE)
    for service in composed["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in composed["volumes"] if "/" not in source else (DEPLOY / source).exists(), mount
        for config in service.get("configs", []):
            assert config["source"] in composed["configs"]
    assert all(source in str(composed["services"]) for source in composed["configs"])


@pytest.mark.parametrize(("lists", "succeeds"), [("", False), ("  echogen   size:0", True), ("  echogen2", False)])
def test_the_set_up_of_the_bucket_fails_if_there_is_no_bucket(lists, succeeds, tmp_path):
    (weed := tmp_path / "weed").write_text(f"#!/bin/sh\nread -r line\ncase $line in *list) echo '{lists}';; esac\n", encoding="utf-8")
    weed.chmod(0o755)
    service = load(COMPOSE)["services"]["s3-setup"]
    done = subprocess.run([*service["entrypoint"], *service["command"]], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=False)
    assert (done.returncode == 0) == succeeds
