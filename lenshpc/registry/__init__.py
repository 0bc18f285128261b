"""The door: tasks, networks and losses by name, ours and those of anybody's package.

They are found through entry points. Ours are declared in setup.cfg as a plugin's are in its own:

    lenshpc.tasks      NAME = module:KIND            a TaskKind
    lenshpc.networks   FAMILY.NAME = module:builder  TaskSpec → network
    lenshpc.losses     FAMILY.NAME = module:builder  TaskSpec → loss

A network or a loss may also be named in a file: ./mynet.py:MyNet. Names are listed without
importing anything, so a plugin that does not import stops nobody who does not ask for it.
"""

from lenshpc.registry.contract import (
    Applicable,
    Batch,
    Fitted,
    Monitors,
    Readout,
    Request,
    Scored,
    Shape,
    StoreFacts,
    Task,
    TaskKind,
    TaskSettings,
    TaskSpec,
)
from lenshpc.registry.lookup import (
    OURS,
    Group,
    build_component,
    component_names,
    families_of,
    find_component,
    find_readout,
    find_task,
    load,
    missing_plugins,
    origin_of,
    plugin_entries,
    plugins_of,
    task_names,
)
from lenshpc.registry.user_files import (
    file_reference,
    is_from_file,
    is_kept_file,
    name_in_plan,
    path_in_run,
)

__all__ = [
    "OURS",
    "Applicable",
    "Batch",
    "Fitted",
    "Group",
    "Monitors",
    "Readout",
    "Request",
    "Scored",
    "Shape",
    "StoreFacts",
    "Task",
    "TaskKind",
    "TaskSettings",
    "TaskSpec",
    "build_component",
    "component_names",
    "families_of",
    "file_reference",
    "find_component",
    "find_readout",
    "find_task",
    "is_from_file",
    "is_kept_file",
    "load",
    "missing_plugins",
    "name_in_plan",
    "origin_of",
    "path_in_run",
    "plugin_entries",
    "plugins_of",
    "task_names",
]
