-- ARGV: milliseconds without any change, ttl in milliseconds.
-- Gives, of a cancelled batch that was never sealed and has not changed for so long, how many items the broker is known to
-- have and how many it has from now on; the same again where that was done before; twice 0 for any other, nothing for an
-- unknown one.
if not go_on() then
  return false
end

local closed = call('HGET', batch, 'closed')
if not closed then
  local since = tonumber(call('HGET', batch, 'touched') or call('HGET', batch, 'created'))
  local is_over = call('HEXISTS', batch, 'stopped') == 1 and tonumber(now()) - since >= tonumber(ARGV[1])
  if not is_over or call('HEXISTS', batch, 'total') == 1 then
    return {0, 0}
  end
  closed = whole(math.max(number('accepted'), recorded_end()))
  call('HSET', batch, 'total', closed, 'closed', closed)
  complete(ARGV[2])
  changed()
end
return {number('accepted'), tonumber(closed)}
