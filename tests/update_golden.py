"""``make golden``: writes fixtures/expected anew from the recordings and today's code."""

from recordings import SCENARIOS, expected_path, recording, translate


def main() -> None:
    """Write each outcome that differs, and say which."""
    for scenario in SCENARIOS:
        path, outcome = expected_path(scenario), translate(recording(scenario))
        if not path.exists() or path.read_bytes() != outcome:
            path.write_bytes(outcome)
            print(f"changed: {path.name}")


if __name__ == "__main__":
    main()
