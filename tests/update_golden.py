"""``make golden``: rewrite fixtures/expected from the recordings and today's code."""

from recordings import SCENARIOS, TURNS, expected_path, recorded_turn, recording, translate


def main() -> None:
    """Rewrite each outcome that differs, and print its name."""
    recordings = [(name, recording(name)) for name in SCENARIOS] + [
        (name, recorded_turn(name)) for name in TURNS
    ]
    for scenario, recorded in recordings:
        path, outcome = expected_path(scenario), translate(recorded)
        if not path.exists() or path.read_bytes() != outcome:
            path.write_bytes(outcome)
            print(f"changed: {path.name}")


if __name__ == "__main__":
    main()
