//! Which places of a layout a walk has met.

/// Which places have been met: those before `next`, as long as they come in order without a gap.
/// Nearly every walk is in order, and then this is one number and no list.
#[derive(Default)]
pub(crate) struct SeenPlaces {
    next: u32,
    marks: Option<Vec<bool>>,
}

impl SeenPlaces {
    /// Marks a place; false if it was marked before.
    #[inline]
    pub(crate) fn mark(&mut self, place: u32) -> bool {
        if self.mark_next(place) {
            return true;
        }
        self.mark_out_of_order(place as usize)
    }

    /// Marks a place if it is the one that comes next.
    #[inline]
    pub(crate) fn mark_next(&mut self, place: u32) -> bool {
        let is_next = self.marks.is_none() && place == self.next;
        self.next += u32::from(is_next);
        is_next
    }

    #[cold]
    fn mark_out_of_order(&mut self, place: usize) -> bool {
        let marks = self
            .marks
            .get_or_insert_with(|| vec![true; self.next as usize]);
        if marks.len() <= place {
            marks.resize(place + 1, false);
        }
        let was_marked = std::mem::replace(&mut marks[place], true);
        !was_marked
    }

    /// Those of the first `count` places that have not been met.
    pub(crate) fn missing(&self, count: usize) -> Vec<usize> {
        let is_marked = |place: &usize| match &self.marks {
            Some(marks) => marks.get(*place) == Some(&true),
            None => *place < self.next as usize,
        };
        (0..count).filter(|place| !is_marked(place)).collect()
    }
}
