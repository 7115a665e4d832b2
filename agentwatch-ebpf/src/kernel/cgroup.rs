//! Cgroups, of the v2 hierarchy only: the ids of v1 hierarchies are numbers of their own, which
//! would be mistaken for others.

use super::{offset, read};

/// The id of a `struct cgroup`, as `bpf_get_current_cgroup_id` and the inode of its folder have it.
#[inline(always)]
pub fn id(cgroup: u64) -> Option<u64> {
    let node: u64 = read(cgroup, offset!(cgroup_kn))?;
    read(node, offset!(kernfs_node_id))
}

/// Whether a `struct cgroup` belongs to the v2 hierarchy (its number is 0).
#[inline(always)]
pub fn is_v2(cgroup: u64) -> bool {
    let hierarchy: Option<i32> = read::<u64>(cgroup, offset!(cgroup_root))
        .and_then(|root| read(root, offset!(cgroup_root_hierarchy_id)));
    hierarchy == Some(0)
}

/// The parent of a `struct cgroup`.
#[inline(always)]
pub fn parent(cgroup: u64) -> Option<u64> {
    let css = super::member(cgroup, offset!(cgroup_self))?;
    let parent: u64 = read(css, offset!(css_parent))?;
    read(parent, offset!(css_cgroup))
}

/// The v2 cgroup id of a task.
#[inline(always)]
pub fn of_task(task: u64) -> Option<u64> {
    let set: u64 = read(task, offset!(task_cgroups))?;
    let cgroup: u64 = read(set, offset!(css_set_dfl_cgrp))?;
    id(cgroup)
}
