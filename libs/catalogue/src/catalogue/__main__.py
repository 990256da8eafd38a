"""``python -m catalogue``: check every data file and print what is on offer."""

from catalogue.loading import load_catalogue

if __name__ == "__main__":
    for model in load_catalogue().models:
        print(f"{model.id:16} {model.kind:6} {model.title}")  # noqa: T201 - a command's output
