# Copyright 2026 The antjax Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a BUILD file of this repository says: a room, or a room of tests."""

load("@rules_python//python:defs.bzl", "py_library", "py_test")

def room(name, rooms = [], exclude = [], data = []):
    """One target of all Python sources below the folder.

    Args:
      name: Name of the folder.
      rooms: Labels of the rooms that its sources import.
      exclude: Patterns of sources that are rooms of their own.
      data: Patterns of other files.
    """
    depth = len(native.package_name().split("/"))
    py_library(
        name = name,
        srcs = native.glob(["**/*.py"], exclude = exclude),
        data = native.glob(data) if data else [],
        imports = ["/".join([".."] * depth)],
        visibility = ["//visibility:public"],
        deps = rooms + ["//:packages"] + (["//antjax"] if "antjax" != native.package_name() else []),
    )

def test_room(name, **kwargs):
    """A room whose `*_test.py` files are one test each.

    Args:
      name: Name of the folder.
      **kwargs: See `room`.
    """
    if native.package_name() != "tests":
        kwargs["rooms"] = kwargs.get("rooms", []) + ["//tests"]  # conftest.py
    else:
        native.exports_files(["bazel_main.py"])
    room(name, **kwargs)
    for file in native.glob(["**/*_test.py"], exclude = kwargs.get("exclude", [])):
        py_test(
            name = file[:-3].replace("/", "_"),
            size = "large",
            srcs = ["//tests:bazel_main.py"],
            main = "//tests:bazel_main.py",
            args = [native.package_name() + "/" + file],
            data = ["//:pyproject.toml"],
            deps = [":" + name],
        )
