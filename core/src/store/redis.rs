//! The store on Redis: outcomes that outlive every process of ours.
