/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM memremap

#if !defined(_TRACE_MEMREMAP_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_MEMREMAP_H

#include <linux/tracepoint.h>

/* The removal of a device waits for pages that somebody uses. */
TRACE_EVENT(pgmap_busy,

	TP_PROTO(const char *dev, unsigned long nr_pages, unsigned long pfn,
		 const char *holder),

	TP_ARGS(dev, nr_pages, pfn, holder),

	TP_STRUCT__entry(
		__string(dev, dev)
		__field(unsigned long, nr_pages)
		__field(unsigned long, pfn)
		__string(holder, holder)
	),

	TP_fast_assign(
		__assign_str(dev);
		__entry->nr_pages = nr_pages;
		__entry->pfn = pfn;
		__assign_str(holder);
	),

	TP_printk("dev=%s nr_pages=%lu pfn=%#lx holder=%s", __get_str(dev),
		  __entry->nr_pages, __entry->pfn, __get_str(holder))
);

#endif /* _TRACE_MEMREMAP_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
