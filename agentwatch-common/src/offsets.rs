//! Where the fields of the running kernel's structures are.
//!
//! rustc emits no CO-RE relocations, so the loader looks each field up in the kernel's BTF and
//! passes the offsets as a read-only global. Never a number that was baked in.

/// Declares [`Offsets`] and the table that userspace fills it from.
macro_rules! offsets {
    ($($field:ident: $structure:literal . $member:literal),+ $(,)?) => {
        /// Byte offsets of structure members, [`Offsets::MISSING`] for what this kernel lacks.
        #[repr(C)]
        #[derive(Clone, Copy)]
        pub struct Offsets {
            $(#[doc = concat!("`struct ", $structure, "`, member `", $member, "`.")] pub $field: u32,)+
        }

        impl Offsets {
            /// "This kernel has no such member."
            pub const MISSING: u32 = u32::MAX;
            /// Nothing known.
            pub const NONE: Self = Self { $($field: Self::MISSING,)+ };
            /// Structure and member of each field, in order.
            pub const FIELDS: &'static [(&'static str, &'static str)] = &[$(($structure, $member)),+];

            /// The offsets in the order of [`Self::FIELDS`].
            pub fn from_fn(mut find: impl FnMut(&'static str, &'static str) -> Option<u32>) -> Self {
                Self { $($field: find($structure, $member).unwrap_or(Self::MISSING),)+ }
            }

            /// Calls `f` with each field's structure, member and offset.
            pub fn each(&self, mut f: impl FnMut(&'static str, &'static str, u32)) {
                $(f($structure, $member, self.$field);)+
            }
        }
    };
}

offsets! {
    task_pid: "task_struct"."pid",
    task_tgid: "task_struct"."tgid",
    task_group_leader: "task_struct"."group_leader",
    task_real_parent: "task_struct"."real_parent",
    task_start_boottime: "task_struct"."start_boottime",
    task_exit_code: "task_struct"."exit_code",
    task_utime: "task_struct"."utime",
    task_stime: "task_struct"."stime",
    task_signal: "task_struct"."signal",
    task_cgroups: "task_struct"."cgroups",
    task_fs: "task_struct"."fs",
    task_files: "task_struct"."files",
    task_mm: "task_struct"."mm",
    task_cred: "task_struct"."cred",
    task_nsproxy: "task_struct"."nsproxy",
    cred_uid: "cred"."uid",
    cred_gid: "cred"."gid",
    cred_euid: "cred"."euid",
    cred_egid: "cred"."egid",
    cred_cap_effective: "cred"."cap_effective",
    cred_user_ns: "cred"."user_ns",
    nsproxy_uts: "nsproxy"."uts_ns",
    nsproxy_ipc: "nsproxy"."ipc_ns",
    nsproxy_mnt: "nsproxy"."mnt_ns",
    nsproxy_pid: "nsproxy"."pid_ns_for_children",
    nsproxy_net: "nsproxy"."net_ns",
    nsproxy_cgroup: "nsproxy"."cgroup_ns",
    nsproxy_time: "nsproxy"."time_ns",
    signal_live: "signal_struct"."live",
    signal_group_exit_code: "signal_struct"."group_exit_code",
    signal_utime: "signal_struct"."utime",
    signal_stime: "signal_struct"."stime",
    signal_maxrss: "signal_struct"."maxrss",
    css_set_dfl_cgrp: "css_set"."dfl_cgrp",
    cgroup_self: "cgroup"."self",
    cgroup_kn: "cgroup"."kn",
    cgroup_root: "cgroup"."root",
    cgroup_root_hierarchy_id: "cgroup_root"."hierarchy_id",
    css_parent: "cgroup_subsys_state"."parent",
    css_cgroup: "cgroup_subsys_state"."cgroup",
    kernfs_node_id: "kernfs_node"."id",
    binprm_file: "linux_binprm"."file",
    binprm_filename: "linux_binprm"."filename",
    binprm_interp: "linux_binprm"."interp",
    binprm_argc: "linux_binprm"."argc",
    mm_arg_start: "mm_struct"."arg_start",
    mm_arg_end: "mm_struct"."arg_end",
    mm_env_start: "mm_struct"."env_start",
    mm_env_end: "mm_struct"."env_end",
    fs_root: "fs_struct"."root",
    fs_pwd: "fs_struct"."pwd",
    path_mnt: "path"."mnt",
    path_dentry: "path"."dentry",
    files_fdt: "files_struct"."fdt",
    fdtable_fd: "fdtable"."fd",
    fdtable_max_fds: "fdtable"."max_fds",
    file_path: "file"."f_path",
    file_inode: "file"."f_inode",
    file_mode: "file"."f_mode",
    file_private_data: "file"."private_data",
    dentry_parent: "dentry"."d_parent",
    dentry_name: "dentry"."d_name",
    dentry_inode: "dentry"."d_inode",
    dentry_alias: "dentry"."d_u",
    qstr_len: "qstr"."len",
    qstr_name: "qstr"."name",
    inode_ino: "inode"."i_ino",
    inode_sb: "inode"."i_sb",
    inode_mode: "inode"."i_mode",
    inode_nlink: "inode"."i_nlink",
    inode_size: "inode"."i_size",
    inode_dentry: "inode"."i_dentry",
    inode_rdev: "inode"."i_rdev",
    sb_dev: "super_block"."s_dev",
    vfsmount_root: "vfsmount"."mnt_root",
    vfsmount_sb: "vfsmount"."mnt_sb",
    mount_mnt: "mount"."mnt",
    mount_parent: "mount"."mnt_parent",
    mount_mountpoint: "mount"."mnt_mountpoint",
    filename_name: "filename"."name",
    io_kiocb_opcode: "io_kiocb"."opcode",
    io_kiocb_file: "io_kiocb"."file",
    io_cqe_res: "io_uring_cqe"."res",
    io_open_dfd: "io_open"."dfd",
    io_open_slot: "io_open"."file_slot",
    io_open_name: "io_open"."filename",
    io_open_how: "io_open"."how",
    io_unlink_dfd: "io_unlink"."dfd",
    io_unlink_flags: "io_unlink"."flags",
    io_unlink_name: "io_unlink"."filename",
    io_rename_dfd: "io_rename"."old_dfd",
    io_rename_dfd2: "io_rename"."new_dfd",
    io_rename_name: "io_rename"."oldpath",
    io_rename_name2: "io_rename"."newpath",
    io_rename_flags: "io_rename"."flags",
    io_mkdir_dfd: "io_mkdir"."dfd",
    io_mkdir_mode: "io_mkdir"."mode",
    io_mkdir_name: "io_mkdir"."filename",
    io_link_dfd: "io_link"."old_dfd",
    io_link_dfd2: "io_link"."new_dfd",
    io_link_name: "io_link"."oldpath",
    io_link_name2: "io_link"."newpath",
    io_link_flags: "io_link"."flags",
    task_flags: "task_struct"."flags",
    regs_arg0: "pt_regs"."di",
    regs_arg1: "pt_regs"."si",
    regs_arg2: "pt_regs"."dx",
    regs_arg3: "pt_regs"."r10",
    regs_arg4: "pt_regs"."r8",
    regs_arg5: "pt_regs"."r9",
    regs_number: "pt_regs"."orig_ax",
    socket_sk: "socket"."sk",
    sk_socket: "sock"."sk_socket",
    sk_protocol: "sock"."sk_protocol",
    skc_cookie: "sock_common"."skc_cookie",
    skc_family: "sock_common"."skc_family",
    skc_daddr: "sock_common"."skc_daddr",
    skc_rcv_saddr: "sock_common"."skc_rcv_saddr",
    skc_dport: "sock_common"."skc_dport",
    skc_num: "sock_common"."skc_num",
    skc_v6_daddr: "sock_common"."skc_v6_daddr",
    skc_v6_rcv_saddr: "sock_common"."skc_v6_rcv_saddr",
    skc_state: "sock_common"."skc_state",
    skc_flags: "sock_common"."skc_flags",
    sk_cgroup_data: "sock"."sk_cgrp_data",
    cgroup_data_cgroup: "sock_cgroup_data"."cgroup",
    tcp_bytes_received: "tcp_sock"."bytes_received",
    tcp_bytes_sent: "tcp_sock"."bytes_sent",
    tcp_bytes_retrans: "tcp_sock"."bytes_retrans",
    tcp_total_retrans: "tcp_sock"."total_retrans",
}

crate::pod!(Offsets);
