"""Config files: YAML 1.2 with `extends`, overrides, positions and budgets; what they mean the specs say."""

from attnlib.config.bundled import config_folder, config_names, config_path
from attnlib.config.files import FORMAT, load_tree, parse_tree, write_file
from attnlib.config.yaml_write import to_yaml

__all__ = ["FORMAT", "config_folder", "config_names", "config_path", "load_tree", "parse_tree", "to_yaml", "write_file"]
