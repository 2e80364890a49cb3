"""`python -m meshcast.cli`: the same as `meshcast`, for places where no scripts folder is on the path."""

from meshcast.cli import main

main()
