/* SPDX-License-Identifier: MIT
 *
 * backend: the host's side of disks, networks and consoles. Knows no guest.
 * The room's public header.
 */
#ifndef BELFRY_BACKEND_H
#define BELFRY_BACKEND_H

#include "base/base.h"
#include "backend/block.h"
#include "backend/console.h"
#include "backend/net.h"

#endif
