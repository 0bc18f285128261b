"""What the tasks that tell classes apart share: settings, losses, task, judge, report."""
